"""A file of pretrained weights: what it says about itself, its backbone and its classifier."""

from dataclasses import dataclass, field
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from ..engine import checkpoint, ranks
from ..registry import architecture, backbone, source
from . import loading

CLASSIFIERS = (
    *("head.", "fc.", "classifier."),  # ours and the published one's, torchvision's, timm's
    *(
        "classifier.fc.",
        "classifier.head.",
        "head.fc.",
    ),  # compact transformers', their fork's first form, guiding CNNs'
    *(
        "late_fusion_classifier.1.",
        "late_fusion_classifier.0.",
        "late_fusion_classifier.",
        "img_gm_classifier.1.",
    ),
)
SECOND_CLASSIFIERS = (
    "distill_head.",
    "head_dist.",
)  # of a distillation token: ours and the published one's, timm's
ABOUT = (
    "kind",
    "step",
    "epoch",
    "backbone",
    "data",
    "recipe",
)  # of a checkpoint of ours: all but its networks


@dataclass(frozen=True)
class File:
    """One file's content. `about` is what our own checkpoints say about themselves, empty for others."""

    path: Path | None = None
    about: dict = field(default_factory=dict)
    backbone: dict[str, Tensor] = field(default_factory=dict)  # names as a bare backbone has them
    head: dict[str, Tensor] = field(
        default_factory=dict
    )  # weight (classes, D) and bias (classes,) of a classifier
    second_head: dict[str, Tensor] = field(
        default_factory=dict
    )  # the same of a distillation token's, if it has one

    def origin(
        self, dataset: str | None, datapath: str | None, source_size: int | None
    ) -> tuple[str, str, int | None]:
        """Data set, its folder and the side of stored image files: what is given, else what the file was made with.

        Folder and side of the file's own data set hold for no other. Without a file: shapes, ./data, None.
        """
        trained = self.about.get("data", {}).get("dataset", "shapes")
        dataset = dataset or trained
        own = source(dataset) == source(trained)
        recipe = self.about.get("recipe", {}) if own else {}
        return (
            dataset,
            datapath or recipe.get("datapath") or "./data",
            source_size or recipe.get("source_size"),
        )

    def check_classes(self, classes: tuple[str, ...], dataset: str) -> None:
        """ValueError unless the file's classifier tells these classes apart, as far as the file says."""
        count, names = len(self.head["weight"]), self.about.get("data", {}).get("classes", classes)
        if count != len(classes):
            raise ValueError(
                f"{self.path} tells {count} classes apart, but {dataset} has {len(classes)}"
            )
        for own, other in zip(names, classes, strict=True):
            if own != other:
                raise ValueError(
                    f"{self.path} was trained on other classes: its {own!r} is {other!r} in {dataset}"
                )


def read(path: str | Path, key: str = "teacher", trust: bool = False) -> File:
    """Read a file, or the newest readable checkpoint of a run folder.

    `key` picks a network where there are several, `trust` lets the file run code. FileNotFoundError or ValueError.
    """
    content, path = (
        _newest(Path(path))
        if Path(path).is_dir()
        else (loading.content(Path(path), trust), Path(path))
    )
    ours = isinstance(content, dict) and "kind" in content
    about = {name: content[name] for name in ABOUT if name in content} if ours else {}
    if about.get("kind") == "finetune":
        model = dict(content["model"])
        heads = [_split_off(model, (name,)) for name in ("head.", "distill_head.")]
        return File(path, about, loading.bare(model), *heads)
    state = loading.network(content, path, key)
    return File(
        path, about, state, _split_off(state, CLASSIFIERS), _split_off(state, SECOND_CLASSIFIERS)
    )


def _split_off(state: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Weight and bias of the first of these classifiers that is in a state dict, taken out of it."""
    prefix = next((p for p in prefixes if p + "weight" in state), None)
    return {
        name: state.pop(prefix + name)
        for name in ("weight", "bias")
        if prefix and prefix + name in state
    }


def _newest(folder: Path) -> tuple[dict, Path]:
    found = checkpoint.newest(folder, ranks.say)
    if found is None:
        raise FileNotFoundError(f"no checkpoint at {folder}: no run has saved one in this folder")
    return found


def network(
    file: File, arch: str | None = None, image_size: int | None = None, channels: int = 3
) -> tuple[nn.Module, dict]:
    """The backbone that a file holds, filled with it, and the arguments of find.backbone that built it.

    What is given goes before what the file says; an image size that neither says is the architecture's own. ValueError
    where the file does not say its architecture, or leaves a parameter without a value.
    """
    known = file.about.get("backbone", {})
    if not (arch or known):
        raise ValueError(f"{file.path} does not say its architecture: give --teacher_arch")
    if arch and known and architecture(arch) != architecture(known["arch"]):
        raise ValueError(f"{file.path} was made with {known['arch']}, not with {arch}")
    if known.get("in_channels", channels) != channels:
        raise ValueError(
            f"{file.path} is for images of {known['in_channels']} channels, and these have {channels}"
        )
    options = {
        "arch": arch,
        **known,
        "in_channels": channels,
        "drop_rate": 0.0,
        "drop_path_rate": 0.0,
    }
    options["image_size"] = (
        image_size
        or options.get("image_size")
        or architecture(options["arch"]).options.get("image_size")
    )
    if options["image_size"] is None:
        raise ValueError(
            f"{file.path} does not say the size of its images: give --teacher_image_size"
        )
    built = backbone(**options)
    fill(built, file, options["arch"], whole=True)
    return built, options


def fill(
    backbone: nn.Module, file: File, arch: str, whole: bool = False, quiet: bool = False
) -> None:
    """Copy a file's backbone by name and say, unless quiet, what was copied and what was not.

    ValueError where nothing fits, or with whole=True where the file leaves a parameter without a value.
    """
    adapt = getattr(architecture(arch).module, "adapt", None)
    try:
        report = loading.load(backbone, file.backbone, adapt)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    for line in () if quiet else report.lines(file.path):
        ranks.say(line)
    empty = [name for name, _ in backbone.named_parameters() if name not in set(report.loaded)]
    if whole and empty:
        names = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise ValueError(
            f"{file.path} does not fit --arch {arch} with these sizes: it has no values for {names}"
        )
