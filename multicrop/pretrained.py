"""A file of pretrained weights: what it says about itself, its backbone and its classifier."""

from dataclasses import dataclass, field
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from . import checkpoint, ranks, weights
from .find import find

CLASSIFIERS = ("head.", "fc.", "classifier.")  # ours and the published one's, torchvision's, timm's


@dataclass(frozen=True)
class File:
    """One file's content. `about` is what our own checkpoints say about themselves, empty for others."""

    path: Path | None = None
    about: dict = field(default_factory=dict)
    backbone: dict[str, Tensor] = field(default_factory=dict)  # names as a bare backbone has them
    head: dict[str, Tensor] = field(default_factory=dict)  # weight (classes, D) and bias (classes,) of a classifier


def read(path: str | Path, key: str = "teacher", trust: bool = False) -> File:
    """Read a file, or the newest checkpoint of a run folder; `key` and `trust` as in weights.read."""
    path = Path(path)
    path = path / checkpoint.NEWEST if path.is_dir() else path
    content = {} if path.suffix == ".safetensors" else checkpoint.read(path, trust)
    about = content if isinstance(content, dict) and "kind" in content else {}
    if about.get("kind") == "finetune":
        model = about["model"]
        head = {name.removeprefix("head."): value for name, value in model.items() if name.startswith("head.")}
        return File(path, about, weights.bare(model), head)
    state = weights.read(path, key, trust)
    prefix = next((p for p in CLASSIFIERS if p + "weight" in state), None)
    head = {name: state.pop(prefix + name) for name in ("weight", "bias") if prefix and prefix + name in state}
    return File(path, about, state, head)


def fill(backbone: nn.Module, file: File, arch: str, whole: bool = False) -> None:
    """Copy a file's backbone by name and say what was copied and what was not.

    ValueError where nothing fits, or with whole=True where the file leaves a parameter without a value.
    """
    adapt = getattr(find("models", arch.partition(":")[0]), "adapt", None)
    report = weights.load(backbone, file.backbone, adapt)
    for line in report.lines(file.path):
        ranks.say(line)
    empty = [name for name, _ in backbone.named_parameters() if name not in set(report.loaded)]
    if whole and empty:
        names = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise ValueError(f"{file.path} does not fit --arch {arch} with these sizes: it has no values for {names}")
