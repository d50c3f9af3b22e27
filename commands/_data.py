"""Which images a command reads, at which size they are stored, and how a network sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._conversion import check_stated, conversion_of, stated_flags
from multicrop.commands._origin import DataOrigin
from multicrop.config.data import DataSettings
from multicrop.config.pretrain import PretrainData
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.sizes import ImageSize, height_width, scaled
from multicrop.datasets._console import only_trying, say_once
from multicrop.datasets._images import SPLITS, ImageSet, LoadOptions, like
from multicrop.engine import ranks
from multicrop.engine.batches import Batches
from multicrop.engine.metadata import Metadata
from multicrop.registry import Source, source

RGB = ("red", "green", "blue")


def resolve_source_size(
    stated: int | None, image_size: ImageSize | None, *, crops: bool
) -> ImageSize:
    """Side in pixels, or height and width, at which image files are stored, unless they are smaller.

    What is stated is the shorter side; the shape is that of the network's images.

    Whoever cuts crops out of images (stage one, and what shows or probes its runs, which then share its cache) wants
    them twice as large as a global crop. Whoever sees whole images (stage two, a teacher) wants them as large as the
    network does, and 64 px where no network says.
    """
    if image_size is None:
        return stated or 64
    if stated:
        return scaled(image_size, stated)
    return scaled(image_size, (2 if crops else 1) * min(height_width(image_size)))


def colours(metadata: Metadata, images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a network's images are normalised by: its training's, else the images' own."""
    data = metadata.data or {"mean": images.mean, "std": images.std}
    return tuple(data["mean"]), tuple(data["std"])


def eval_transform(metadata: Metadata, image_size: ImageSize, images: ImageSet) -> EvalTransform:
    """What a network sees of images."""
    mean, std = colours(metadata, images)
    crop_pct, resample = metadata.data.get("crop_pct"), metadata.resample
    return EvalTransform(image_size, mean, std, crop_pct=crop_pct, resample=resample)


def load_options(data: DataSettings, source_size: ImageSize) -> LoadOptions:
    """How files are read."""
    return LoadOptions(
        source_size=source_size, download=data.download, stream=data.stream, workers=data.workers
    )


@dataclass(frozen=True)
class ProbeImages:
    """The labelled images of the online k-NN."""

    train: ImageSet
    test: ImageSet


def training_source(data: PretrainData) -> Source:
    """The data set of stage one. ValueError where --label_column and the like are for no data set of the run."""
    return source(data.dataset).with_columns(data.columns)


def pretraining_images(recipe: Pretraining) -> tuple[ImageSet, ProbeImages | None]:
    """The training images, and those of the online k-NN if it is wanted and there are labels."""
    data = recipe.data
    data_set = training_source(data)
    other = knn_source(recipe)
    source_size = resolve_source_size(data.source_size, recipe.backbone.image_size, crops=True)
    options = replace(load_options(data, source_size), conversion=conversion_of(data, data.dataset))

    def load() -> tuple[ImageSet, ProbeImages | None]:
        images = data_set.load(data.datapath, "train", options)
        check_stated(images, stated_flags(data), data.dataset)
        if other is not None and recipe.run.knn_freq:
            with of_knn_dataset(other, recipe.run.knn_datapath):
                datapath = recipe.run.knn_datapath or "./data"
                return images, probe_images(other, datapath, like(options, images), images)
        if images.labels is not None and recipe.run.knn_freq:
            test = data_set.load(data.datapath, "test", like(options, images))
            return images, ProbeImages(images, test)
        return images, None

    def is_light(loaded: tuple[ImageSet, ProbeImages | None]) -> bool:
        images, probe = loaded
        splits = (images,) if probe is None else (images, probe.train, probe.test)
        return all(split.in_files for split in splits)

    images, probe = ranks.make_on_node(load, is_light)
    say_constant_channels(data.dataset, images)
    if recipe.run.knn_freq and probe is None:
        ranks.log(
            f"no online k-NN: {data.dataset} has no labels; --knn_dataset names a data set with labels"
        )
    return images, probe


def knn_source(recipe: Pretraining) -> Source | None:
    """The data set of the online k-NN, if it is another. ValueError where it cannot have labels, or is not there.

    That is said before a long decoding.
    """
    run = recipe.run
    if run.knn_dataset is None:
        return None
    other = source(run.knn_dataset)
    if not other.labelled:
        raise ValueError(f"--knn_dataset {run.knn_dataset} has no labels, and they are needed")
    if run.knn_freq and not recipe.data.download:
        with of_knn_dataset(other, run.knn_datapath), only_trying():
            datapath = run.knn_datapath or "./data"
            ranks.broadcast_object(lambda: bool(other.listing(datapath, "train")))
    return other


@contextmanager
def of_knn_dataset(other: Source, datapath: str | None) -> Iterator[None]:
    """Errors say that they are about the data set of the online k-NN, and which flags name it."""
    flags = f"--knn_dataset {other.entry}"
    remedy = ""
    if datapath is None:
        remedy = "; --knn_datapath says where it is (./data unless stated)"
    else:
        flags += f" --knn_datapath {datapath}"
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{flags}: {error}{remedy}") from None


def probe_images(
    other: Source, datapath: str, options: LoadOptions, images: ImageSet
) -> ProbeImages:
    """Both splits of another data set, to be seen in the colours of the training images. ValueError without labels."""
    splits = [other.load(datapath, split, options) for split in SPLITS]
    for split in splits:
        if split.labels is None:
            raise ValueError("there are no labels")
        if split.pixels.shape[1] != images.pixels.shape[1]:
            channels = f"{split.pixels.shape[1]} channels, and the training images {images.pixels.shape[1]}"
            raise ValueError(f"its images have {channels}")
    train, test = (replace(split, mean=images.mean, std=images.std) for split in splits)
    return ProbeImages(train, test)


def pretraining_batches(recipe: Pretraining, images: ImageSet, device: torch.device) -> Batches:
    """The batches of stage one: their order is a function of (seed, epoch). With labels in joint training alone."""
    return Batches(
        images.pixels,
        images.labels if recipe.method.label_weight else None,
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

    One process of each node reads: downloads and caches are made once, and files listed once.
    """
    check_labelled(origin)  # before a long decoding
    options = replace(options, conversion=origin.conversion)

    def load() -> list[ImageSet]:
        images: list[ImageSet] = []
        for split in splits:
            of_split = like(options, images[0]) if images else options
            images.append(origin.source.load(origin.datapath, split, of_split))
        return images

    images = ranks.make_on_node(load, lambda images: all(split.in_files for split in images))
    check_stated(images[0], origin.stated, origin.dataset)
    check_labelled(origin, *images)
    say_constant_channels(origin.dataset, images[0])
    return images


def check_labelled(origin: DataOrigin, *images: ImageSet) -> None:
    """ValueError where the data set, or these images of it, have no labels."""
    labelled = [split.labels is not None for split in images]
    if not all(labelled) or not origin.source.labelled:
        raise ValueError(
            f"--dataset {origin.dataset} has no labels, and they are needed: class folders are --dataset image_folder, "
            "labels in a table are --dataset table, and --label_column names a column"
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
        subject, verb = ("channel", "does") if len(images.constant) == 1 else ("channels", "do")
        line = (
            f"{subject} {listed} of {len(images.std)} {verb} not vary in the training images: centred, and scaled as "
            "the channel that varies most"
        )
    say_once(f"{dataset}: {line}")
