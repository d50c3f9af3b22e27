"""Which images a command reads, at which size they are stored, and how a network sees them."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._conversion import check_channels, conversion_of
from multicrop.config.data import DataSettings
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._convert import Conversion
from multicrop.datasets._images import ImageSet, LoadOptions, like
from multicrop.engine import ranks
from multicrop.engine.batches import Batches
from multicrop.engine.metadata import Metadata
from multicrop.registry import source


@dataclass(frozen=True)
class DataOrigin:
    """A data set, its folder, and how its image files become pixels."""

    dataset: str
    datapath: str
    source_size: int | None
    """The side in pixels at which its image files were stored (None: not said)."""
    conversion: Conversion = Conversion()
    channels: str = "auto"
    """What --channels says."""


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
    return DataOrigin(
        dataset,
        datapath,
        data.source_size or recipe.get("source_size"),
        conversion_of(data, dataset, metadata),
        data.channels,
    )


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
    source_size = resolve_source_size(data.source_size, recipe.backbone.image_size, crops=True)
    options = replace(load_options(data, source_size), conversion=conversion_of(data, data.dataset))
    test = None
    with ranks.first_on_node():
        images = data_set.load(data.datapath, "train", options)
        check_channels(images, data.channels, data.dataset)
        if recipe.run.knn_freq and images.labels is not None:
            test = data_set.load(data.datapath, "test", like(options, images))
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
    data_set = source(origin.dataset)
    words = f"--dataset {origin.dataset} has no labels, and they are needed: class folders are --dataset image_folder"
    if not data_set.labelled:  # before a long decoding
        raise ValueError(words)
    options = replace(options, conversion=origin.conversion)
    images: list[ImageSet] = []
    with ranks.first_on_node():
        for split in splits:
            images.append(data_set.load(origin.datapath, split, options))
            options = like(options, images[0])
    check_channels(images[0], origin.channels, origin.dataset)
    if any(split.labels is None for split in images):
        raise ValueError(words)
    return images
