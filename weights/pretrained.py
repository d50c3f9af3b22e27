"""A file of pretrained weights: what it says about itself, its backbone and its classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from ..engine import checkpoint, ranks
from ..engine.metadata import Checkpoint, Metadata, is_ours
from . import published
from .candidates import NETWORKS, Adapt, Candidates, Choice, StateDict, candidates
from .loading import SizesDiffer, load_by_name, read_content, shortened

# Where classifiers stand in files.
CLASSIFIERS = (
    "head.",  # ours and the published one's
    "fc.",  # torchvision's
    "classifier.",  # timm's
    "classifier.fc.",  # compact transformers'
    "classifier.head.",  # their fork's first form
    "head.fc.",  # guiding CNNs'
    "last_linear.",  # timm's Inception and NASNet
    "late_fusion_classifier.1.",
    "late_fusion_classifier.0.",
    "late_fusion_classifier.",
    "img_gm_classifier.1.",
)
SECOND_CLASSIFIERS = (
    "distill_head.",  # of a distillation token: ours and the published one's
    "head_dist.",  # timm's
)
AVERAGE = "average"  # what a run of stage two calls its averaged weights


@dataclass
class Pretrained:
    """One file's content. Its metadata is that of a checkpoint of ours, and empty for files of others.

    Those do not say which of their tensors are the network: until `choose` has compared them with one, backbone and
    classifiers are the likeliest by their names.
    """

    path: Path | None = None
    metadata: Metadata = Metadata(kind="")
    backbone: StateDict = field(default_factory=dict)  # names as a bare backbone has them
    # Weight (classes, D) and bias (classes,) of a classifier
    head: StateDict = field(default_factory=dict)
    # The same of a distillation token's, if it has one
    second_head: StateDict = field(default_factory=dict)
    # Of a file of others: all that may be its network, and what of that was taken
    candidates: Candidates | None = None
    choice: Choice | None = None
    outside: list[str] = field(default_factory=list)  # names that are neither

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

    def temperature(self, key: str = NETWORKS[0]) -> dict[str, Any] | None:
        """What was fitted on validation images for the network that this key names, if it was."""
        return self.metadata.calibration.get("model" if key in NETWORKS else key)

    def choose(self, network: nn.Module, adapt: Adapt | None) -> None:
        """Take what of a file of others has most names and shapes in common with a bare backbone."""
        if self.candidates:
            width = getattr(network, "dim", None)
            self.take(self.candidates.best(network, adapt), width)

    def take(self, choice: Choice, width: int | None = None) -> None:
        """Take the network at a place, and the classifiers inside it or beside it, for features of that width.

        While it is a guess, and has no width, a classifier may also be inside whatever holds most of the file.
        """
        assert self.candidates is not None
        state = dict(self.candidates.states[choice.place.dictionary])
        levels = _levels(choice.place.prefix)
        if width is None:
            levels += self.candidates.widest(choice.place.dictionary)
        self.choice = choice
        self.head = split_off(state, CLASSIFIERS, levels, width)
        self.second_head = split_off(state, SECOND_CLASSIFIERS, levels, width)
        rest = replace(self.candidates, states={choice.place.dictionary: state})
        self.backbone = rest.tensors(choice.place)
        self.outside = [name for name in state if not name.startswith(choice.place.prefix)]

    def describe_choice(self) -> tuple[str, list[str]]:
        """Which network of a file of others was taken: how the report's first line ends, and further lines."""
        if not (self.candidates and self.choice):
            return "", []
        place = self.choice.place
        ending = f" from its {place.dictionary}" if place.dictionary else ""
        if place.prefix:
            ending += f", under the prefix {place.prefix}"
        lines = []
        if self.outside:
            lines.append(f"  {len(self.outside)} not under it stay out: {shortened(self.outside)}")
        for key in self.choice.others:
            lines.append(f"  it also holds {key}, which {self.candidates.flag} {key} takes instead")
        return ending, lines


def read(
    path: str | Path, key: str = "teacher", trust: bool = False, flag: str = "--checkpoint_key"
) -> Pretrained:
    """Read a file, the newest readable checkpoint of a run folder, or published:NAME, which may be downloaded first.

    `key` picks a network where there are several: teacher or student, or the name of any part of the file. `trust` lets
    the file run code. flag: what asks for the key, for messages. FileNotFoundError or ValueError.
    """
    if published.is_name(path):
        entry = published.find(path)
        return replace(read(entry.fetch(), key, trust, flag), metadata=entry.metadata())
    path = Path(path)
    if path.is_dir():
        stored, path = _newest(path)
        return _ours(stored, path, key, flag)
    return of_content(read_content(path, trust), path, key, flag)


def of_content(
    content: Any, path: Path, key: str = "teacher", flag: str = "--checkpoint_key"
) -> Pretrained:
    """The same of what was read from a file. ValueError where there are no weights."""
    if is_ours(content):
        return _ours(Checkpoint.from_dict(content), path, key, flag)
    file = Pretrained(path, candidates=candidates(content, path, key, flag))
    assert file.candidates
    file.take(Choice(file.candidates.guess()))
    return file


def _newest(folder: Path) -> tuple[Checkpoint, Path]:
    newest = checkpoint.newest(folder, ranks.log)
    if newest is None:
        raise FileNotFoundError(f"no checkpoint at {folder}: no run has saved one in this folder")
    return newest


def _ours(stored: Checkpoint, path: Path, key: str, flag: str) -> Pretrained:
    """Ours says what it is: nothing is searched for."""
    metadata, state = stored.metadata, stored.state
    if metadata.kind == "finetune":
        if key in NETWORKS:
            key = "model"
            if _differ(state["model"], state.get(AVERAGE)):
                hint = f"{flag} {AVERAGE} takes them"
                ranks.log(f"{path} also holds averaged weights, which stay out: {hint}")
        state = {name: state[name] for name in ("model", AVERAGE) if name in state}
    else:  # beside an optimizer, and an objective whose head is no network that sees images
        state = {name: state[name] for name in NETWORKS if name in state} or state
    parts = candidates(state, path, key, flag)
    file = Pretrained(path, metadata, candidates=parts)
    file.take(Choice(parts.guess()))
    file.candidates = file.choice = None
    if metadata.kind != "finetune":  # a projection of stage one tells no classes apart
        file.head, file.second_head = {}, {}
    return file


def _differ(state: StateDict, other: StateDict | None) -> bool:
    """Whether there is another state dict, of other values: the best epoch's network may be its own average."""
    if other is None:
        return False
    return not all(torch.equal(value, other[name]) for name, value in state.items())


def _levels(prefix: str) -> list[str]:
    """A prefix and those around it, the innermost first: `a.b.`, `a.` and the empty one."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:end]) for end in range(len(parts), -1, -1)]


def split_off(
    state: StateDict,
    classifiers: tuple[str, ...],
    levels: Sequence[str] = ("",),
    width: int | None = None,
) -> StateDict:
    """Weight and bias of the first of these classifiers that is in a state dict, taken out of it.

    levels: what may stand before its name. width: of the features that it reads, where that is known.
    """
    for level in levels:
        for classifier in classifiers:
            name = level + classifier
            weight = state.get(name + "weight")
            if weight is None or (width and weight.ndim == 2 and weight.shape[1] != width):
                continue
            head = {"weight": state.pop(name + "weight")}
            if name + "bias" in state:
                head["bias"] = state.pop(name + "bias")
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

    Of a file of others this chooses the network, and with it the classifier. ValueError where nothing fits, or with
    strict=True where the file leaves a parameter without a value; SizesDiffer where that is because sizes differ.
    """
    pretrained.choose(backbone, adapt)
    try:
        report = load_by_name(backbone, pretrained.backbone, adapt)
    except SizesDiffer as error:
        raise SizesDiffer(error.misshapen, pretrained.path) from None
    except ValueError as error:
        raise ValueError(f"{pretrained.path}: {error}") from None
    if not quiet:
        ending, further = pretrained.describe_choice()
        first, *lines = report.lines(pretrained.path)
        for line in (first + ending, *lines, *further):
            ranks.log(line)
    loaded = set(report.loaded)
    empty = [name for name, _ in backbone.named_parameters() if name not in loaded]
    if strict and empty and report.misshapen:
        raise SizesDiffer(report.misshapen, pretrained.path)
    if strict and empty:
        names = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise ValueError(
            f"{pretrained.path} does not fit --arch {arch} with these sizes: it has no values for {names}"
        )
