"""A file of pretrained weights: what it says about itself, its backbone and its classifier."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.nn as nn

from ..engine import checkpoint, ranks
from ..engine.metadata import Checkpoint, Metadata, is_ours
from . import published
from .loading import (
    Adapt,
    StateDict,
    backbone_state_dict,
    load_by_name,
    read_content,
    strip_wrappers,
)

# Where classifiers stand in files.
CLASSIFIERS = (
    "head.",  # ours and the published one's
    "fc.",  # torchvision's
    "classifier.",  # timm's
    "classifier.fc.",  # compact transformers'
    "classifier.head.",  # their fork's first form
    "head.fc.",  # guiding CNNs'
    "late_fusion_classifier.1.",
    "late_fusion_classifier.0.",
    "late_fusion_classifier.",
    "img_gm_classifier.1.",
)
SECOND_CLASSIFIERS = (
    "distill_head.",  # of a distillation token: ours and the published one's
    "head_dist.",  # timm's
)


@dataclass(frozen=True)
class Pretrained:
    """One file's content. Its metadata is that of a checkpoint of ours, and empty for files of others."""

    path: Path | None = None
    metadata: Metadata = Metadata(kind="")
    backbone: StateDict = field(default_factory=dict)  # names as a bare backbone has them
    # Weight (classes, D) and bias (classes,) of a classifier
    head: StateDict = field(default_factory=dict)
    # The same of a distillation token's, if it has one
    second_head: StateDict = field(default_factory=dict)

    def check_classes(self, classes: tuple[str, ...], dataset: str) -> None:
        """ValueError unless the file's classifier tells these classes apart, as far as the file says."""
        count = len(self.head["weight"])
        if count != len(classes):
            raise ValueError(
                f"{self.path} tells {count} classes apart, but {dataset} has {len(classes)}"
            )
        own_names = self.metadata.data.get("classes", classes)
        for own, other in zip(own_names, classes, strict=True):
            if own != other:
                raise ValueError(
                    f"{self.path} was trained on other classes: its {own!r} is {other!r} in {dataset}"
                )


def read(path: str | Path, key: str = "teacher", trust: bool = False) -> Pretrained:
    """Read a file, the newest readable checkpoint of a run folder, or published:NAME, which may be downloaded first.

    `key` picks a network where there are several, `trust` lets the file run code. FileNotFoundError or ValueError.
    """
    if published.is_name(path):
        entry = published.find(path)
        return replace(read(entry.fetch(), key, trust), metadata=entry.metadata())
    path = Path(path)
    if path.is_dir():
        stored, path = _newest(path)
        return _ours(stored, path, key)
    content = read_content(path, trust)
    if is_ours(content):
        return _ours(Checkpoint.from_dict(content), path, key)
    return _of_state(content, path, key, Metadata(kind=""))


def _newest(folder: Path) -> tuple[Checkpoint, Path]:
    newest = checkpoint.newest(folder, ranks.log)
    if newest is None:
        raise FileNotFoundError(f"no checkpoint at {folder}: no run has saved one in this folder")
    return newest


def _ours(stored: Checkpoint, path: Path, key: str) -> Pretrained:
    if stored.metadata.kind != "finetune":
        return _of_state(stored.state, path, key, stored.metadata)
    model = dict(stored.state["model"])
    head = split_off(model, ("head.",))
    second_head = split_off(model, ("distill_head.",))
    return Pretrained(path, stored.metadata, strip_wrappers(model), head, second_head)


def _of_state(content: Any, path: Path, key: str, metadata: Metadata) -> Pretrained:
    state = backbone_state_dict(content, path, key)
    head = split_off(state, CLASSIFIERS)
    second_head = split_off(state, SECOND_CLASSIFIERS)
    return Pretrained(path, metadata, state, head, second_head)


def split_off(state: StateDict, prefixes: tuple[str, ...]) -> StateDict:
    """Weight and bias of the first of these classifiers that is in a state dict, taken out of it."""
    for prefix in prefixes:
        if prefix + "weight" in state:
            head = {"weight": state.pop(prefix + "weight")}
            if prefix + "bias" in state:
                head["bias"] = state.pop(prefix + "bias")
            return head
    return {}


def fill(
    backbone: nn.Module,
    pretrained: Pretrained,
    arch: str,
    adapt: Adapt | None,
    strict: bool = False,
    quiet: bool = False,
) -> None:
    """Copy a file's backbone by name and say, unless quiet, what was copied and what was not.

    ValueError where nothing fits, or with strict=True where the file leaves a parameter without a value.
    """
    try:
        report = load_by_name(backbone, pretrained.backbone, adapt)
    except ValueError as error:
        raise ValueError(f"{pretrained.path}: {error}") from None
    if not quiet:
        for line in report.lines(pretrained.path):
            ranks.log(line)
    loaded = set(report.loaded)
    empty = [name for name, _ in backbone.named_parameters() if name not in loaded]
    if strict and empty:
        names = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise ValueError(
            f"{pretrained.path} does not fit --arch {arch} with these sizes: it has no values for {names}"
        )
