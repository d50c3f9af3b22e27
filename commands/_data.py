"""Which images a command reads, at which size they are stored, and how a network sees them."""

from dataclasses import dataclass
from typing import Any

import torch

from multicrop.augment.evaluation import EvalTransform
from multicrop.config.data import DataSettings
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._images import ImageSet, LoadOptions
from multicrop.datasets._notes import say_once
from multicrop.engine import ranks
from multicrop.engine.batches import Batches
from multicrop.engine.metadata import Metadata
from multicrop.registry import source

RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class DataOrigin:
    """A data set, its folder, and the side in pixels at which its image files were stored (None: not said)."""

    dataset: str
    datapath: str
    source_size: int | None


def data_origin(data: DataSettings, metadata: Metadata) -> DataOrigin:
    """What the flags say, else what the weights were made with. Without either: shapes, ./data, None.

    Folder and side of the weights' own data set hold for no other.
    """
    trained_on = metadata.data.get("dataset", "shapes")
    dataset = data.dataset or trained_on
    recipe: dict[str, Any] = {}
    if source(dataset) == source(trained_on):
        recipe = metadata.recipe
    datapath = data.datapath or recipe.get("datapath") or "./data"
    return DataOrigin(dataset, datapath, data.source_size or recipe.get("source_size"))


def resolve_source_size(stated: int | None, image_size: int | None, *, crops: bool) -> int:
    """Side in pixels at which image files are stored, unless they are smaller.

    Whoever cuts crops out of images (stage one, and what shows or probes its runs, which then share its cache) wants
    them twice as large as a global crop. Whoever sees whole images (stage two, a teacher) wants them as large as the
    network does, and 64 px where no network says.
    """
    if stated:
        return stated
    if image_size is None:
        return 64
    return 2 * image_size if crops else image_size


def colours(metadata: Metadata, images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a network's images are normalised by: its training's, else the images' own."""
    data = metadata.data or {"mean": images.mean, "std": images.std}
    return tuple(data["mean"]), tuple(data["std"])


def eval_transform(metadata: Metadata, image_size: int, images: ImageSet) -> EvalTransform:
    """What a network sees of images."""
    mean, std = colours(metadata, images)
    return EvalTransform(image_size, mean, std, crop_pct=metadata.data.get("crop_pct"))


def load_options(data: DataSettings, source_size: int) -> LoadOptions:
    """How files are read."""
    return LoadOptions(
        source_size=source_size, download=data.download, stream=data.stream, workers=data.workers
    )


def pretraining_images(recipe: Pretraining) -> tuple[ImageSet, ImageSet | None]:
    """The training images, and the test images if the online k-NN wants them and the data set has labels."""
    data = recipe.data
    data_set = source(data.dataset)
    options = load_options(
        data, resolve_source_size(data.source_size, recipe.backbone.image_size, crops=True)
    )
    test = None
    with ranks.first_on_node():
        images = data_set.load(data.datapath, "train", options)
        if recipe.run.knn_freq and images.labels is not None:
            test = data_set.load(data.datapath, "test", options)
    say_constant_channels(data.dataset, images)
    if recipe.run.knn_freq and test is None:
        ranks.log(f"no online k-NN: {data.dataset} has no labels")
    return images, test


def pretraining_batches(recipe: Pretraining, images: ImageSet, device: torch.device) -> Batches:
    """The batches of stage one: their order is a function of (seed, epoch)."""
    return Batches(
        images.pixels,
        None,
        recipe.optimisation.batch_size_per_gpu,
        seed=recipe.optimisation.seed,
        device=device,
        accumulate=recipe.optimisation.accumulate,
        rank=ranks.rank(),
        world=ranks.world_size(),
    )


def labelled_images(
    origin: DataOrigin, options: LoadOptions, splits: tuple[str, ...] = ("train", "test")
) -> list[ImageSet]:
    """The images of each split. ValueError where the data set has no labels.

    One process of each node reads first: downloads and caches are made once.
    """
    check_labelled(origin)  # before a long decoding
    data_set = source(origin.dataset)
    with ranks.first_on_node():
        images = [data_set.load(origin.datapath, split, options) for split in splits]
    check_labelled(origin, *images)
    say_constant_channels(origin.dataset, images[0])
    return images


def check_labelled(origin: DataOrigin, *images: ImageSet) -> None:
    """ValueError where the data set, or these images of it, have no labels."""
    labelled = [split.labels is not None for split in images]
    if not all(labelled) or not source(origin.dataset).labelled:
        raise ValueError(
            f"--dataset {origin.dataset} has no labels, and they are needed: class folders are --dataset image_folder"
        )


def say_constant_channels(dataset: str, images: ImageSet) -> None:
    """A line about channels that do not vary, once a process."""
    if not images.constant:
        return
    if len(images.constant) == len(images.std):
        line = "all training images are of one and the same colour: there is nothing to tell apart"
    else:
        names = RGB if len(images.std) == 3 else range(1, len(images.std) + 1)
        listed = " and ".join(str(names[channel]) for channel in images.constant)
        line = (
            f"channel {listed} of {len(images.std)} does not vary in the training images: it is centred, and scaled "
            "as the channel that varies most"
        )
    say_once(f"{dataset}: {line}")
