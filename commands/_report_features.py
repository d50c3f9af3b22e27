"""By which features a report compares images: a trained network's, or where there is none random ones. n images."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from multicrop import registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._data import resolve_source_size
from multicrop.commands._networks import backbone_of
from multicrop.commands._report_images import SplitImages
from multicrop.config.sizes import ImageSize, height_width
from multicrop.engine import seeds
from multicrop.probes.features import extract_features
from multicrop.probes.pixels import RawPixels
from multicrop.weights.pretrained import Pretrained

SIDE = 64  # px at which images are read where no network says
RANDOM: dict[str, Any] = {"arch": "resnet20", "image_size": 32}
COMPONENTS = 128  # of raw pixels, beside random features


@dataclass
class Comparing:
    """Turns images into features (n, D), the images' own mean and deviation taken where no network has any."""

    file: Pretrained | None
    """None: random convolutions and the main components of the pixels."""
    seed: int
    device: torch.device

    @property
    def words(self) -> str:
        if self.file is None:
            return "random convolutions and raw pixels"
        return f"features of {self.file.path}"

    @property
    def has_learned_labels(self) -> bool:
        return self.file is not None and bool(self.file.head)

    @property
    def source_size(self) -> ImageSize:
        """At which images are read."""
        if self.file is None:
            return SIDE
        crops = self.file.metadata.kind != "finetune"
        stated = self.file.metadata.recipe.get("source_size")
        size = resolve_source_size(stated, self.image_size, crops=crops)
        return (
            size
            if min(height_width(size)) >= SIDE
            else resolve_source_size(SIDE, self.image_size, crops=crops)
        )

    @property
    def image_size(self) -> ImageSize:
        options: dict[str, Any] = RANDOM if self.file is None else self.file.metadata.backbone
        return options["image_size"]

    def trained(self) -> nn.Module:
        assert self.file is not None
        return backbone_of(self.file, quiet=True).to(self.device).eval()

    def random(self, channels: int = 3) -> nn.Module:
        """The same network with random weights, those that the run began with where it began with such."""
        options: dict[str, Any] = {"in_channels": channels, **RANDOM}
        seed = self.seed
        if self.file is not None:
            options = {**options, **self.file.metadata.backbone}
            seed = self.file.metadata.recipe.get("seed", seed)
        seeds.reseed(seed, "weights")
        return registry.backbone(**options).to(self.device).eval()

    def transform(self, images: SplitImages) -> EvalTransform:
        if self.file is not None:
            metadata = self.file.metadata
            data = metadata.data
            return EvalTransform(
                self.image_size,
                data["mean"],
                data["std"],
                crop_pct=data.get("crop_pct"),
                resample=metadata.resample,
            )
        levels = images.pixels[:: max(1, len(images) // 1024)].float() / 255
        std, mean = torch.std_mean(levels, dim=(0, 2, 3), correction=0)
        return EvalTransform(
            self.image_size, tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())
        )

    def features(self, images: SplitImages) -> Tensor:
        """Of the network, float32 (n, D) on the CPU."""
        network = self.trained() if self.file else self.random(images.pixels.shape[1])
        return self.of(network, images, self.transform(images))

    def with_pixels(self, features: Tensor, images: SplitImages) -> Tensor:
        """The features of a trained network; of a random one with the main components of the pixels behind them."""
        if self.file is not None:
            return features
        raw_pixels = RawPixels(images.pixels.shape[1], self.image_size)
        pixels = self.of(raw_pixels, images, self.transform(images))
        return torch.cat([_unit(features), _unit(_main_components(pixels))], 1)

    def of(self, network: nn.Module, images: SplitImages, transform: EvalTransform) -> Tensor:
        return extract_features(network, images.pixels, transform, 256, self.device).cpu()


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features - features.mean(0), dim=1)


def _main_components(values: Tensor) -> Tensor:
    """(n, D) -> the coordinates along the directions of most variance, (n, at most COMPONENTS)."""
    centred = values - values.mean(0)
    count = min(COMPONENTS, *centred.shape)
    left, sizes, _ = torch.svd_lowrank(centred, q=count, niter=2)
    return left * sizes
