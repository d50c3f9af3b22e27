"""Which images --eval scores, with the labels of the checkpoint, and the folder of its results."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from multicrop.commands._data import (
    check_labelled,
    labelled_images,
    load_options,
    resolve_source_size,
)
from multicrop.commands._imbalance import class_counts, classes_without
from multicrop.commands._origin import DataOrigin, data_origin
from multicrop.config.finetune import FinetuneRun, Recipe
from multicrop.datasets._console import only_trying
from multicrop.datasets._folders import Listing, image_set
from multicrop.datasets._images import ImageSet, LoadOptions
from multicrop.engine import ranks
from multicrop.engine.checkpoint import NEWEST
from multicrop.engine.fingerprint import image_hashes, label_hash
from multicrop.registry import source
from multicrop.weights import published
from multicrop.weights.pretrained import Pretrained


class Scored(NamedTuple):
    """Images whose labels are places among the checkpoint's classes, and which these are in words."""

    images: ImageSet
    words: str


def load_scored(recipe: Recipe, file: Pretrained) -> Scored:
    """The images; nothing of a training split is decoded where the file says mean and deviation.

    ValueError where some are of a class that the file does not know.
    """
    origin = data_origin(recipe.data, file.metadata)
    image_size = recipe.backbone.image_size or file.metadata.backbone.get("image_size")
    source_size = resolve_source_size(origin.source_size, image_size, crops=False)
    options = replace(load_options(recipe.data, source_size), conversion=origin.conversion)
    check_labelled(origin)
    listing, which = choose(origin, file, options)
    if listing is None:
        (images,) = labelled_images(origin, options, ("test",))
    else:
        check_classes(file, listing.classes, torch.tensor(listing.labels), origin)
        settings = listing, options, constants(file)
        images = ranks.make_on_node(
            lambda: image_set(*settings, trains=False), lambda images: images.in_files
        )
    images = with_classes_of(file, images, origin)
    counts = class_counts(images)
    classes = sum(count > 0 for count in counts.values())
    words = f"{which} of {place_of(origin)}: {len(images)} images in {classes} classes"
    ranks.log(f"scoring {words}")
    for line in classes_without(counts, "images here"):
        ranks.log(line)
    if not file.metadata.data:
        ranks.log(
            f"{file.path} does not say by which mean and deviation its images were normalised: taking those of "
            f"{place_of(origin)}"
        )
    return Scored(images, words)


# Which images


def choose(
    origin: DataOrigin, file: Pretrained, options: LoadOptions
) -> tuple[Listing | None, str]:
    """A listing of the images, None where the data set's own test split is to be loaded as it is; and which these are.

    Of images without training and test split all, unless the checkpoint was trained on them: then those that were held
    out as a test split.
    """
    entry = origin.source
    whole = entry.unsplit(origin.datapath)
    if whole is not None and not was_trained_on(file, origin, options):
        return whole, "all images"
    if not file.metadata.data or options.download:
        return None, "the test split"
    return entry.listing(origin.datapath, "test"), "the test split"


def was_trained_on(file: Pretrained, origin: DataOrigin, options: LoadOptions) -> bool:
    """Whether a checkpoint's training images are these, by their path, or wherever they lie now by their content."""
    metadata = file.metadata
    trained_on, identity = metadata.data.get("dataset"), metadata.identity
    if trained_on is None or source(trained_on) != source(origin.dataset):
        return False
    datapath = metadata.recipe.get("datapath")
    if datapath and os.path.realpath(datapath) == os.path.realpath(origin.datapath):
        return True
    with only_trying():  # nothing is held out of images that are all scored
        try:
            train = origin.source.listing(origin.datapath, "train")
        except (ValueError, FileNotFoundError):  # too few for a training split
            return False
    if train is None or label_hash(torch.tensor(train.labels)) != identity.get("labels"):
        return False
    streamed = image_set(train, replace(options, stream=True), constants(file))
    return image_hashes(streamed)["pixels"] == identity.get("pixels")  # of a few images


def place_of(origin: DataOrigin) -> str:
    """What tells people which images these are."""
    return origin.datapath if origin.source.own else origin.dataset


def constants(file: Pretrained) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the images that a file's network was trained on; None where it does not say."""
    data = file.metadata.data
    return (tuple(data["mean"]), tuple(data["std"])) if data else None


# Classes


def check_classes(
    file: Pretrained, classes: tuple[str, ...], labels: Tensor, origin: DataOrigin
) -> None:
    """ValueError unless the file knows all classes that have images, by their names where it has names."""
    known = file.metadata.data.get("classes")
    if known is None or len(known) != len(file.head["weight"]):
        file.check_classes(classes, origin.dataset)
        return
    unknown = [classes[label] for label in labels.unique().tolist() if classes[label] not in known]
    if unknown:
        more = f" and {len(unknown) - 1} more classes" if len(unknown) > 1 else ""
        listed = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        raise ValueError(
            f"{place_of(origin)} has images of {unknown[0]}{more}, which {file.path} does not know: it was trained on "
            f"{listed}; call the folders so, or leave the others out"
        )


def with_classes_of(file: Pretrained, images: ImageSet, origin: DataOrigin) -> ImageSet:
    """The images with the file's classes, in its order."""
    assert images.labels is not None
    check_classes(file, images.classes, images.labels, origin)
    known = file.metadata.data.get("classes")
    if known is None:
        return images
    number = {name: label for label, name in enumerate(known)}
    labels = torch.tensor([number.get(name, -1) for name in images.classes])
    return replace(images, labels=labels[images.labels], classes=tuple(known))


# Results


def results_folder(recipe: Recipe, checkpoint: Path) -> Path:
    """The folder of the results: that of --output_dir.

    Where that holds a run, or where none is given, eval/ in there or beside the checkpoint, with a name for this
    checkpoint and these images: nothing of a run is overwritten. Of published weights never beside them.
    """
    folder = Path(recipe.run.output_dir)
    if not states_output(recipe):
        if not published.is_name(recipe.start.pretrained_weights or ""):  # those lie in a cache
            folder = checkpoint.parent
    elif not (folder / NEWEST).exists() and not (folder / "recipe.yaml").exists():
        return folder
    return folder / "eval" / f"{checkpoint.stem}-{name_of_data(recipe)}"


def states_output(recipe: Recipe) -> bool:
    """Whether --output_dir says where results go, or which run is measured."""
    is_default = recipe.run.output_dir == FinetuneRun().output_dir
    return not (is_default and recipe.start.pretrained_weights)


def make_folder(folder: Path, stated: bool) -> Path | None:
    """The folder, made on rank 0; None on other ranks, and where nobody named it and it cannot be made."""
    if ranks.rank() != 0:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        line = f"cannot make the folder of the results {folder}: {error.strerror}"
        if stated:
            raise OSError(f"{line}; choose another --output_dir") from None
        ranks.log(f"warning: {line}; they are only printed, unless you give an --output_dir")
        return None
    return folder


def name_of_data(recipe: Recipe) -> str:
    """The last part of the path of one's own images, the data set's name for others."""
    dataset, datapath = recipe.data.dataset, recipe.data.datapath
    assert dataset is not None and datapath is not None  # resolved before
    if source(dataset).own:
        return Path(datapath).expanduser().resolve().name
    return dataset.replace(":", "-")
