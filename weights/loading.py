"""Weights for a backbone from files of ours, of the published code, of timm or of anyone: matched by name, reported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch import Tensor

from ..engine import checkpoint
from ..engine.metadata import Checkpoint, is_ours

StateDict = dict[str, Tensor]
# Another program's names or table sizes into those of a network
Adapt = Callable[[StateDict, nn.Module], StateDict]

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.")
HEADS = ("head.", "mlphead.", "fc.", "classifier.", "last_layer.", "head_drop.")
STATE_DICTS = ("state_dict", "model_state_dict", "model_state", "model")
SHOWN = 4  # names that a line of the report gives


@dataclass(frozen=True)
class Report:
    """What a load did: names in the model's words."""

    loaded: list[str]
    missing: list[str]  # in the model, not in the file
    unused: list[str]  # in the file, not in the model
    misshapen: list[str]  # in both, with shapes that differ

    def lines(self, path: Path | str | None) -> list[str]:
        lines = [f"{path}: {len(self.loaded)} tensors loaded by name"]
        for names, what in (
            (self.missing, "kept as initialised, since the file does not have them"),
            (self.misshapen, "kept as initialised, since the shapes differ"),
            (self.unused, "in the file, but not in this network"),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        return lines


def read_content(path: Path, trust: bool = False) -> Any:
    """Whatever a .pt, .pth or .safetensors file holds. FileNotFoundError or ValueError, one line."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return checkpoint.read(path, trust)


def backbone_state_dict(content: Any, path: Path, key: str = "teacher") -> StateDict:
    """The state dict in a file's content, names as a bare backbone has them.

    `key` picks a network where the file holds several (student and teacher). ValueError where there is none.
    """
    if is_ours(content):
        content = Checkpoint.from_dict(content).state
    state = _pick(content, key, path)
    return strip_wrappers(
        {name: value for name, value in state.items() if isinstance(value, Tensor)}
    )


def strip_wrappers(state: StateDict) -> StateDict:
    """Wrappers' prefixes removed; where a `backbone.` part exists only that part is the backbone."""
    while True:
        inside = {}
        for name, value in state.items():
            if name.startswith("backbone."):
                inside[name.removeprefix("backbone.")] = value
        if inside:
            state = inside
            continue
        prefix = _wrapper(state)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _wrapper(state: StateDict) -> str | None:
    """The prefix that all names but those of heads have."""
    body = [name for name in state if not name.startswith(HEADS)]
    for prefix in WRAPPERS:
        if any(name.startswith(prefix) for name in state):
            return prefix if all(name.startswith(prefix) for name in body) else None
    return None


def load_by_name(model: nn.Module, state: StateDict, adapt: Adapt | None = None) -> Report:
    """Copy what matches by name and shape, after `adapt`. ValueError where nothing matches."""
    if adapt:
        state = adapt(state, model)
    own = model.state_dict()
    fitting: StateDict = {}
    unused, misshapen = [], []
    for name, value in state.items():
        if name not in own:
            unused.append(name)
        elif own[name].shape != value.shape:
            misshapen.append(f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}")
        else:
            fitting[name] = value
    missing = [name for name in own if name not in state]
    if not any(name in fitting for name, _ in model.named_parameters()):
        raise ValueError(f"nothing in the file fits this network: {_why(state, own, misshapen)}")
    model.load_state_dict(fitting, strict=False)
    return Report(sorted(fitting), missing, unused, misshapen)


def _why(state: StateDict, own: StateDict, misshapen: list[str]) -> str:
    if misshapen:
        hint = "leave out flags and recipe keys of the backbone"
        return f"names agree but sizes differ ({misshapen[0]}): {hint}"
    theirs, ours = ", ".join(list(state)[:3]), ", ".join(list(own)[:3])
    return f"it has {theirs}, ...; the network has {ours}, ..."


def _pick(content: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    for name in (key, *STATE_DICTS):
        if isinstance(content.get(name), dict):
            return content[name]
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    nested = [name for name, value in content.items() if isinstance(value, dict)]
    choices = ", ".join(nested) or "nothing"
    raise ValueError(f"{path} has no {key!r}; choose --checkpoint_key among {choices}")


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from None
