"""What probes compare: the checkpoints' networks and, before them, raw pixels and random weights; on which images."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import registry
from multicrop.commands._data import resolve_source_size
from multicrop.commands._kept import say_which
from multicrop.commands._networks import check_channels, fill_backbone, network_options
from multicrop.commands._origin import DataOrigin, data_origin
from multicrop.config.data import DataSettings
from multicrop.config.knn import Network, Weights
from multicrop.config.sizes import ImageSize
from multicrop.datasets._console import say_once
from multicrop.engine import ranks, seeds
from multicrop.probes.pixels import RawPixels
from multicrop.registry import source
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained


class ProbeTarget(NamedTuple):
    """A network to probe: a file's, one of random weights, or none (raw pixels) in the file's place."""

    file: Pretrained
    backbone: dict[str, Any]  # arguments of registry.backbone
    seed: int | None = None  # of the random weights
    raw_pixels: bool = False

    @property
    def name(self) -> str:
        if self.raw_pixels:
            return "raw pixels"
        return str(self.file.path) if self.seed is None else f"random weights, seed {self.seed}"


def targets(
    files: Iterable[Pretrained], weights: Weights, network: Network, raw_pixels: bool
) -> Iterator[ProbeTarget]:
    """The files' networks; before a new image size the raw pixels, before a new architecture random weights.

    A file without a path is none: only what stands before it is probed.
    """
    sizes: list[ImageSize] = []
    architectures: list[dict[str, Any]] = []
    for file in files:
        options = backbone_options(network, file)
        if raw_pixels and options["image_size"] not in sizes:
            yield ProbeTarget(file, options, raw_pixels=True)
        sizes.append(options["image_size"])
        # Dropout changes no features: the two stages' checkpoints differ in it, and are one architecture
        architecture = {name: options[name] for name in options if not name.startswith("drop_")}
        if weights.random_weights and architecture not in architectures:
            own_seed = file.metadata.recipe.get("seed", 0)
            yield ProbeTarget(file, options, own_seed if weights.seed is None else weights.seed)
        architectures.append(architecture)
        if file.path:
            yield ProbeTarget(file, options)


def read_model(model: str, weights: Weights) -> Pretrained:
    """One file, or the newest checkpoint of a run folder. Rank 0 reads it for all: the run may still go on."""
    key, trust = weights.checkpoint_key, weights.trust_checkpoint
    file = ranks.broadcast_object(lambda: pretrained.read(model, key, trust))
    say_which(model, file)
    return file


def backbone_options(network: Network, file: Pretrained) -> dict[str, Any]:
    """Arguments of registry.backbone. ValueError where flags contradict the checkpoint."""
    options = {"arch": "vit", "image_size": 32, **network_options(network, file)}
    registry.check(**{"in_channels": 3, **options})
    return options


def build(target: ProbeTarget, channels: int) -> nn.Module:
    check_channels(target.file, channels)  # the baselines, too, are seen by its mean and deviation
    if target.raw_pixels:
        return RawPixels(channels, target.backbone["image_size"])
    seeds.reseed(target.seed or 0, "weights")
    options = {"in_channels": channels, **target.backbone}
    network = registry.backbone(**options)
    if target.seed is None:
        fill_backbone(network, target.file, options["arch"], strict=True, options=options)
    return network


def image_origin(
    data: DataSettings, file: Pretrained, image_size: ImageSize
) -> tuple[DataOrigin, ImageSize]:
    """Data set, its folder and the size at which image files are stored: flags first, then what the checkpoint says.

    That is the data set of the run's own online k-NN, where it had another one.
    """
    origin = probe_origin(data, file) or data_origin(data, file.metadata)
    crops = file.metadata.kind != "finetune"
    size = resolve_source_size(origin.source_size, image_size, crops=crops)
    return replace(origin, source_size=None), size


def probe_origin(data: DataSettings, file: Pretrained) -> DataOrigin | None:
    """The run's --knn_dataset, unless flags say which images; None where it had none."""
    recipe = file.metadata.recipe
    name = recipe.get("knn_dataset")
    if name is None or data.dataset:
        return None
    if data.datapath and source(file.metadata.data.get("dataset", "shapes")).labelled:
        return None
    say_once(
        f"the images of {file.path}'s --knn_dataset {name}; --dataset and --datapath say others"
    )
    datapath = data.datapath or recipe.get("knn_datapath") or "./data"
    stated = replace(data, dataset=name, datapath=datapath)
    unlike_training = replace(file.metadata, recipe={"source_size": recipe.get("source_size")})
    return data_origin(stated, unlike_training)


def spread(images: int, most: int | None) -> Tensor:
    """Indices of at most so many images, spread evenly over the set."""
    count = min(images, most or images)
    return torch.arange(count) * images // count


def when(target: ProbeTarget) -> dict[str, Any]:
    """Step and epoch of a target's weights: 0 of random ones, None of raw pixels and of files of other programs."""
    metadata = target.file.metadata
    if target.seed is not None:
        return {"step": 0, "epoch": 0}
    if metadata.kind and not target.raw_pixels:
        return {"step": metadata.step, "epoch": metadata.epoch}
    return {"step": None, "epoch": None}
