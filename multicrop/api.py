"""The commands as Python functions, and a trained backbone in one line.

Keyword arguments are named as the flags, and `recipe=` is a recipe file. They go through the parser of the command
line, so that names, types and messages are the same; what a function returns is what the command prints last.
"""

import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cli

if TYPE_CHECKING:
    import torch.nn as nn

    from .augment.evaluation import EvalTransform

Paths = str | Path | Iterable[str | Path]  # one, or several: images, or checkpoints


def pretrain(**flags: Any) -> dict[str, Any]:
    """Stage one. ValueError in one line for what a user can mend. Flags: config/pretrain.py."""
    return _run("pretrain", (), flags)


def finetune(**flags: Any) -> dict[str, Any]:
    """Stage two, or with eval=True a classifier's accuracy. Flags: config/finetune.py."""
    return _run("finetune", (), flags)


def knn(*checkpoints: Paths, **flags: Any) -> dict[str, Any]:
    """The k-NN probe of checkpoint files or run folders. Flags: config/knn.py."""
    return _run("knn", checkpoints, flags)


def advise(path: str | Path, **flags: Any) -> dict[str, Any]:
    """What to train on a folder of images, tried out; with dry=True only looked at. Flags: config/advise.py."""
    return _run("advise", (path,), flags)


def export(model: str | Path, to: str, **flags: Any) -> dict[str, Any]:
    """A trained network as ONNX, a torch.export program or weights for timm. Flags: config/export.py."""
    return _run("export", (model,), {"to": to, **flags})


def robustness(model: str | Path, **flags: Any) -> dict[str, Any]:
    """A finetuned classifier's errors and calibration under corruptions. Flags: config/robustness.py."""
    return _run("robustness", (model,), flags)


def linear(model: str | Path, **flags: Any) -> dict[str, Any]:
    """The linear probe of a network's frozen features. Flags: config/linear.py."""
    return _run("linear", (model,), flags)


def labels(model: str | Path, **flags: Any) -> dict[str, Any]:
    """Accuracy with a part of the labels: the label-efficiency curve. Flags: config/labels.py."""
    return _run("labels", (model,), flags)


def report(*paths: Paths, **flags: Any) -> dict[str, Any]:
    """One page about a data set, a run, or several runs, report.html. Flags: config/report.py."""
    return _run("report", paths, flags)


def predict(model: str | Path, *images: Paths, **flags: Any) -> dict[str, Any]:
    """The classes of images, a row for each in the file `output`. Flags: config/predict.py.

    images: paths of files, folders, archives or patterns, or lists of such.
    """
    return _run("predict", (model, *images), flags)


def embed(model: str | Path, *images: Paths, **flags: Any) -> dict[str, Any]:
    """The features of images, with their names, in the file `output`. Flags: config/embed.py.

    images: as for `predict`.
    """
    return _run("embed", (model, *images), flags)


def load(path: str | Path, key: str = "teacher") -> "nn.Module":
    """The backbone of a run folder, one of our checkpoint files or published:NAME, on the CPU, in evaluation mode.

    It has .dim, and beside that .image_size in pixels, .mean and .std per channel in units of 0..1, of the images that
    it was trained on: `transform` brings images to that form. key: which network of stage one, teacher or student;
    "average" for the averaged weights of stage two.
    """
    return import_module("multicrop.commands._networks").load_backbone(path, key)


def load_classifier(path: str | Path, key: str = "teacher") -> "nn.Module":
    """The classifier of a finetuned run folder or checkpoint file: images (B, C, h, w) -> logits (B, classes).

    It has what a backbone of `load` has, and .classes, their names in the order of the logits. key: "average" for the
    averaged weights.
    """
    return import_module("multicrop.commands._networks").load_classifier(path, key)


def transform(backbone: "nn.Module") -> "EvalTransform":
    """What brings uint8 images (B, C, H, W) on any device to the input of a loaded backbone or classifier."""
    return import_module("multicrop.commands._networks").transform_of(backbone)


def _run(command: str, positional: tuple[Paths, ...], flags: dict[str, Any]) -> dict[str, Any]:
    recipe_type = import_module(f"multicrop.config.{command}").Recipe
    words = [*_paths(positional), *cli.words_of(flags)]
    recipe = cli.parse(recipe_type, words)
    return import_module(f"multicrop.commands.{command}").run(recipe)


def _paths(given: Iterable[Paths]) -> Iterator[str]:
    """Each path of what was given alone or in lists. ValueError for what is no path."""
    for one in given:
        if isinstance(one, (str, os.PathLike)):
            yield os.fspath(one)
        elif isinstance(one, (list, tuple, Iterator)):
            yield from _paths(one)
        else:
            raise ValueError(
                f"{type(one).__name__} is no path: name files or folders; images in memory go through "
                "multicrop.load or load_classifier, and multicrop.transform"
            )
