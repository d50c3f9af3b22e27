"""What the probe compares: the checkpoints' networks and, before them, raw pixels and random weights."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch.nn as nn

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.config.knn import Recipe
from multicrop.engine import seeds
from multicrop.probes.pixels import RawPixels
from multicrop.weights import series
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


def targets(recipe: Recipe) -> Iterator[ProbeTarget]:
    """The checkpoints' networks; before a new image size the raw pixels, before a new architecture random weights."""
    weights = recipe.weights
    sizes: list[int] = []
    architectures: list[dict[str, Any]] = []
    files: Iterable[Pretrained] = [Pretrained()]
    if recipe.checkpoints:
        files = series.read(recipe.checkpoints, weights.checkpoint_key, weights.trust_checkpoint)
    for file in files:
        options = backbone_options(recipe, file)
        if recipe.probe.raw_pixels and options["image_size"] not in sizes:
            yield ProbeTarget(file, options, raw_pixels=True)
        sizes.append(options["image_size"])
        # Dropout changes no features: the two stages' checkpoints differ in it, and are one architecture
        architecture = {name: options[name] for name in options if not name.startswith("drop_")}
        if weights.random_weights and architecture not in architectures:
            own_seed = file.metadata.recipe.get("seed", 0)
            yield ProbeTarget(file, options, own_seed if weights.seed is None else weights.seed)
        architectures.append(architecture)
        if recipe.checkpoints:
            yield ProbeTarget(file, options)


def backbone_options(recipe: Recipe, file: Pretrained) -> dict[str, Any]:
    """Arguments of registry.backbone: what the checkpoint says, else flags. ValueError where these contradict it."""
    described, stated = file.metadata.backbone, recipe.backbone.options()
    for name, value in stated.items():
        if described.get(name, value) != value:
            made_with = f"{file.path} was made with {described[name]}"
            raise ValueError(f"--{name} {value}, but {made_with}: leave the flag out")
    options = {"arch": "vit", "image_size": 32, **stated, **described}
    registry.check(**{"in_channels": 3, **options})
    return options


def build(target: ProbeTarget, channels: int) -> nn.Module:
    if target.raw_pixels:
        return RawPixels(channels, target.backbone["image_size"])
    seeds.reseed(target.seed or 0, "weights")
    network = registry.backbone(**{"in_channels": channels, **target.backbone})
    if target.seed is None:
        fill_backbone(network, target.file, target.backbone["arch"], strict=True)
    return network
