"""Weights for a backbone from files of ours, of the published code, of timm or of anyone: matched by name, reported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from ..engine import checkpoint

PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.")
HEADS = ("head.", "mlphead.", "fc.", "classifier.", "last_layer.", "head_drop.")


@dataclass(frozen=True)
class Report:
    """What a load did: names in the model's words."""

    loaded: list[str]
    missing: list[str]  # in the model, not in the file
    unused: list[str]  # in the file, not in the model
    misshapen: list[str]  # in both, with shapes that differ

    def lines(self, path: Path | str, size: int = 4) -> list[str]:
        lines = [f"{path}: {len(self.loaded)} tensors loaded by name"]
        for names, what in (
            (self.missing, "kept as initialised, since the file does not have them"),
            (self.misshapen, "kept as initialised, since the shapes differ"),
            (self.unused, "in the file, but not in this network"),
        ):
            if names:
                more = f" and {len(names) - size} more" if len(names) > size else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:size])}{more}")
        return lines


def content(path: Path, trust: bool = False):
    """Whatever a .pt, .pth or .safetensors file holds. FileNotFoundError or ValueError, one line."""
    return (
        _read_safetensors(path) if path.suffix == ".safetensors" else checkpoint.read(path, trust)
    )


def network(content, path: Path, key: str = "teacher") -> dict[str, Tensor]:
    """The state dict in a file's content, names as a bare backbone has them.

    `key` picks a network where the file holds several (student and teacher). ValueError where there is none.
    """
    state = _pick(content, key, path)
    return bare({name: value for name, value in state.items() if isinstance(value, Tensor)})


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Wrappers' prefixes removed; where a `backbone.` part exists only that part is the backbone."""
    while True:
        inside = {
            name.removeprefix("backbone."): v
            for name, v in state.items()
            if name.startswith("backbone.")
        }
        if inside:
            state = inside
            continue
        prefix = next(
            (p for p in PREFIXES if state and any(name.startswith(p) for name in state)), None
        )
        if prefix is None or not all(
            name.startswith(prefix) for name in state if not name.startswith(HEADS)
        ):
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def load(model: nn.Module, state: dict[str, Tensor], adapt: Callable | None = None) -> Report:
    """Copy what matches by name and shape. `adapt(state, model)` translates another program's names or table sizes.

    ValueError where nothing matches.
    """
    state = adapt(state, model) if adapt else state
    own = model.state_dict()
    fits = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    report = Report(
        loaded=sorted(fits),
        missing=[name for name in own if name not in state],
        unused=[name for name in state if name not in own],
        misshapen=[
            f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        ],
    )
    if not any(name in dict(model.named_parameters()) for name in fits):
        theirs, ours = ", ".join(list(state)[:3]), ", ".join(list(own)[:3])
        why = f"it has {theirs}, ...; the network has {ours}, ..."
        if report.misshapen:
            why = f"names agree but sizes differ ({report.misshapen[0]}): leave out flags and recipe keys of the backbone"
        raise ValueError(f"nothing in the file fits this network: {why}")
    model.load_state_dict(fits, strict=False)
    return report


def _pick(state, key: str, path: Path) -> dict:
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a dictionary of weights")
    for name in (key, "state_dict", "model_state_dict", "model_state", "model"):
        if isinstance(state.get(name), dict):
            return state[name]
    nested = [name for name, value in state.items() if isinstance(value, dict)]
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} has no {key!r}; choose --checkpoint_key among {', '.join(nested) or 'nothing'}"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from None
