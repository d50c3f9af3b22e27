"""Weights for a backbone from files of ours, of the published code, of timm or of anyone: matched by name, reported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn

from ..engine import checkpoint
from .candidates import Adapt, StateDict

SHOWN = 4  # names that a line of the report gives


@dataclass(frozen=True)
class Misshapen:
    """A tensor whose shape in the file is not the network's."""

    name: str
    in_file: tuple[int, ...]
    in_network: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.in_file} for {self.in_network}"


class SizesDiffer(ValueError):
    """Names agree and sizes do not: a network of this kind, but another one."""

    def __init__(self, misshapen: list[Misshapen], path: Path | None = None):
        first, where = misshapen[0], f"{path}: " if path else ""
        super().__init__(
            f"{where}names agree but sizes differ, of {len(misshapen)} tensors: {first.name} is {first.in_file} in the "
            f"file and {first.in_network} in the network"
        )
        self.misshapen = misshapen


@dataclass(frozen=True)
class Report:
    """What a load did: names in the model's words."""

    loaded: list[str]
    missing: list[str]  # in the model, not in the file
    unused: list[str]  # in the file, not in the model
    misshapen: list[Misshapen]  # in both

    def lines(self, path: Path | str | None) -> list[str]:
        lines = [f"{path}: {len(self.loaded)} tensors loaded by name"]
        for names, what in (
            (self.missing, "kept as initialised, since the file does not have them"),
            (list(map(str, self.misshapen)), "kept as initialised, since the shapes differ"),
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
    """Copy what matches by name and shape, after `adapt`. ValueError where nothing matches.

    SizesDiffer where most of what matches by name has another shape: what is left would be no pretrained network.
    """
    if adapt:
        state = adapt(state, model)
    own = model.state_dict()
    fitting: StateDict = {}
    unused: list[str] = []
    misshapen: list[Misshapen] = []
    for name, value in state.items():
        if name not in own:
            unused.append(name)
        elif own[name].shape != value.shape:
            misshapen.append(Misshapen(name, tuple(value.shape), tuple(own[name].shape)))
        else:
            fitting[name] = value
    missing = [name for name in own if name not in state]
    if len(misshapen) > len(fitting):
        raise SizesDiffer(misshapen)
    if not any(name in fitting for name, _ in model.named_parameters()):
        theirs, ours = ", ".join(list(state)[:3]), ", ".join(list(own)[:3])
        words = f"it has {theirs}, ...; the network has {ours}, ..."
        raise ValueError(f"nothing in the file fits this network: {words}")
    model.load_state_dict(fitting, strict=False)
    return Report(sorted(fitting), missing, unused, misshapen)


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or is no safetensors file: {error}") from None
