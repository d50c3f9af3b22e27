"""Weights for a backbone from files of ours, of the published code, of timm or of anyone: matched by name, reported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn

from ..engine import checkpoint
from .candidates import Adapt, StateDict

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
                lines.append(f"  {len(names)} {what}: {shortened(names)}")
        return lines


def shortened(names: list[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def read_content(path: Path, trust: bool = False) -> Any:
    """Whatever a .pt, .pth or .safetensors file holds. FileNotFoundError or ValueError, one line."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return checkpoint.read(path, trust)


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


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from None
