"""A trained network and the images that it is shown: what `multicrop predict` and `multicrop embed` share."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch.nn as nn

from multicrop import registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._conversion import conversion_of
from multicrop.commands._data import load_options, resolve_source_size
from multicrop.commands._image_stream import (
    Decoded,
    ImageStream,
    decoded_files,
    stored_images,
    with_labels,
)
from multicrop.commands._kept import say_which
from multicrop.commands._networks import check_channels, fill_backbone, network_options
from multicrop.commands._origin import data_origin
from multicrop.config.inference import ImageSource, Network, Weights
from multicrop.datasets._console import say_once
from multicrop.datasets._convert import Conversion
from multicrop.datasets._endings import needed
from multicrop.datasets._folders import Listing, any_class
from multicrop.datasets._given import Given, given
from multicrop.datasets._inventory import listed
from multicrop.datasets._places import Several
from multicrop.datasets._rows import NoLabels
from multicrop.datasets._table import Columns
from multicrop.engine import ranks
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.progress import Progress
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained


@dataclass(frozen=True)
class Trained:
    """A backbone that is filled with a file, and the file."""

    backbone: nn.Module
    file: Pretrained
    image_size: int
    channels: int

    @property
    def sees_crops(self) -> bool:
        """Whether its images are read at the size that stage one cuts crops from, as the k-NN probe does it."""
        return self.file.metadata.kind != "finetune"


def read_network(model: str, weights: Weights, stated: Network) -> Trained:
    """The backbone of a run folder, a checkpoint, published:NAME or a file of others, on the CPU.

    ValueError where the architecture or the size of its images is not known, or a parameter stays without a value.
    """
    file = ranks.broadcast_object(
        lambda: pretrained.read(model, weights.checkpoint_key, weights.trust_checkpoint)
    )
    say_which(model, file)
    described = file.metadata.backbone
    options = backbone_options(stated, file)
    backbone = registry.backbone(**options)
    fill_backbone(backbone, file, options["arch"], strict=True, quiet=bool(described))
    backbone.eval().requires_grad_(False)
    return Trained(backbone, file, options["image_size"], options["in_channels"])


def backbone_options(stated: Network, file: Pretrained) -> dict[str, Any]:
    """Arguments of registry.backbone. ValueError where flags contradict the file, or neither says enough."""
    options = {"in_channels": 3, **network_options(stated, file)}
    if "arch" not in options:
        raise ValueError(f"{file.path} does not say its architecture: give --arch")
    size = options.get("image_size") or registry.own_image_size(options["arch"])
    if size is None:
        raise ValueError(f"{file.path} does not say the size of its images: give --image_size")
    return options | {"image_size": size}


def transform_for(network: Trained, stream: ImageStream) -> EvalTransform:
    """What the network sees of the images, as --eval and the k-NN probe show it. ValueError for other channels."""
    check_channels(network.file, stream.shape[0], own=network.channels)
    metadata = network.file.metadata
    data = metadata.data
    if "mean" in data and "std" in data:
        mean, std = data["mean"], data["std"]
    else:
        mean, std = stream.statistics()
        ranks.log(
            f"{network.file.path} does not say by which mean and deviation its images were normalised: taking those of "
            "these images"
        )
    crop_pct, resample = data.get("crop_pct"), metadata.resample
    return EvalTransform(network.image_size, mean, std, crop_pct=crop_pct, resample=resample)


# The images


@contextmanager
def open_images(
    words: tuple[str, ...], settings: ImageSource, network: Trained, *, crops: bool
) -> Iterator[ImageStream]:
    """The images of the command line's words, or of --dataset.

    crops: whether files are read twice as large as the network sees them, see resolve_source_size.
    """
    if settings.dataset:
        with _of_data_set(settings, network, crops) as stream:
            yield stream
        return
    metadata = network.file.metadata
    stated = settings.source_size or metadata.recipe.get("source_size")
    side = resolve_source_size(stated, network.image_size, crops=crops)
    conversion = _for_network(conversion_of(settings, "images", metadata), settings, network)
    parts = given(words, Columns.of(**settings.columns))
    say_no_images(parts)
    with decoded_files(parts, conversion, side, settings.workers) as stream:
        yield stream


def say_no_images(parts: list[Given]) -> None:
    """One line on the files of each folder or archive that are no images; on images left out `given` has its own."""
    for part in parts:
        if part.tree is None:  # files by their names, or a table
            continue
        others = Counter[str]()
        for _, node in part.tree.nodes():
            for ending, count in node.content.others.items():
                if not needed(ending):
                    others[ending or "without an ending"] += count
            others["broken link"] += node.content.broken
        if +others:
            say_once(f"left out of {part.root}, no images: {listed(+others)}")


@contextmanager
def _of_data_set(settings: ImageSource, network: Trained, crops: bool) -> Iterator[ImageStream]:
    """The images of a split, or of all that is not split."""
    data = settings.settings()
    origin = data_origin(data, network.file.metadata)
    side = resolve_source_size(origin.source_size, network.image_size, crops=crops)
    conversion = _for_network(origin.conversion, settings, network)
    source = origin.source
    listing = source.unsplit(origin.datapath) if settings.split is None else None
    split = settings.split or ("test" if source.labelled else "train")
    if listing is None and not settings.download:
        with any_class():  # labels are not needed
            stated = settings.split is not None
            listing, split = _listing(source, origin.datapath, split, stated=stated)
    if listing is None:
        options = replace(load_options(data, side), conversion=conversion)
        with ranks.first_on_node():
            images = source.load(origin.datapath, split, options)
        yield stored_images(images, split)
        return
    prefix = "" if isinstance(listing.root, Several) else f"{listing.root}/"  # names as paths
    part = Given(listing.root, listing.names, prefix=prefix)
    with decoded_files([part], conversion, side, settings.workers) as stream:
        yield with_labels(stream, listing.labels, listing.classes)


def _listing(
    source: registry.Source, datapath: str, split: str, *, stated: bool
) -> tuple[Listing | None, str]:
    """The images of a split and its name; of a data set without labels all of them, unless a split is stated."""
    try:
        return source.listing(datapath, split), split
    except NoLabels:
        if stated:
            raise
        return source.listing(datapath, "train"), "train"


def _for_network(conversion: Conversion, settings: ImageSource, network: Trained) -> Conversion:
    """The conversion with the network's channels, where neither flags nor the file say how to get them."""
    if settings.channels == "auto" and not conversion.whole and network.channels in (1, 3):
        return conversion._replace(channels=network.channels)
    return conversion


def watched(
    stream: ImageStream, start: int, stop: int, size: int, interrupt: Interrupt
) -> Iterator[Decoded]:
    """The batches of a stretch, until a signal asks for an end; a terminal shows how far they are."""
    progress = Progress(-(-(stop - start) // size), 0, size)
    for batch in stream.batches(start, stop, size):
        if interrupt.asked:
            break
        yield batch
        progress.step()
    progress.close()
