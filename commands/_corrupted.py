"""Where corrupted images come from: made of the test images, or read from published files. N images."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from multicrop.augment import corruptions
from multicrop.config.robustness import Corruption
from multicrop.datasets import _corrupted as published
from multicrop.datasets._images import ImageSet, LoadOptions
from multicrop.engine import ranks
from multicrop.engine.batches import Pixels
from multicrop.registry import nearest

ALL = (*corruptions.PUBLISHED, *corruptions.FURTHER)


@dataclass(frozen=True)
class CorruptedPixels:
    """uint8 images (N, C, H, W) that are corrupted on the device whenever they are asked for."""

    pixels: Pixels
    name: str
    severity: int
    seed: int
    device: torch.device

    @property
    def unreadable(self) -> set[int]:
        """The numbers of images whose files cannot be read, of streamed ones those that were asked for."""
        return getattr(self.pixels, "unreadable", set())

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> Tensor:
        images = self.pixels[index].to(self.device)
        return corruptions.corrupt(images, self.name, self.severity, seed=self.seed, index=index)


def named(settings: Corruption) -> tuple[str, ...]:
    """The names of --corruptions, each once."""
    return tuple(dict.fromkeys(settings.corruptions))


class Made:
    """Corruptions of the test images."""

    def __init__(self, settings: Corruption, device: torch.device):
        self.names = named(settings) or corruptions.CORRUPTIONS
        self._seed, self._device = settings.seed, device
        self.words = f"made of the test images, seed {settings.seed}"
        self.identity: dict[str, Any] = {"source": "made", "seed": settings.seed}
        self.left_out = () if settings.corruptions else ("frost",)
        for name in self.names:
            reason = corruptions.NOT_MADE.get(name)
            if reason:
                raise ValueError(
                    f"--corruptions {name}: it {reason}; read it from the published files by --published FOLDER"
                )

    def check(self, images: ImageSet) -> None:
        """ValueError unless these images can be given these corruptions."""
        for name in self.names:
            corruptions.check(name, 1, images.pixels.shape[1:])

    def load(self, name: str, severity: int, clean: ImageSet) -> ImageSet:
        pixels = CorruptedPixels(clean.pixels, name, severity, self._seed, self._device)
        return replace(clean, pixels=cast(Tensor, pixels), file=None, checksums=None)


class Published:
    """Corruptions that a folder of published files holds."""

    def __init__(self, settings: Corruption, options: LoadOptions):
        assert settings.published is not None
        self._files = published.open_corrupted(settings.published)
        self._options = options
        there = self._files.names
        self.names = named(settings) or tuple(
            name for name in corruptions.PUBLISHED if name in there
        )
        self.words = f"of {settings.published}"
        self.identity: dict[str, Any] = {"source": "published", "published": settings.published}
        self.left_out: tuple[str, ...] = ()
        if not settings.corruptions:
            self.left_out = tuple(name for name in corruptions.PUBLISHED if name not in there)
        missing = [name for name in self.names if name not in there]
        if missing or not self.names:
            raise FileNotFoundError(
                f"{settings.published} has no {', '.join(missing) or 'corruption of the published mean'}; "
                f"it has {', '.join(sorted(there)) or 'none'}"
            )

    def check(self, images: ImageSet) -> None:
        """Files are checked when they are read."""

    def load(self, name: str, severity: int, clean: ImageSet) -> ImageSet:
        return self._files.load(name, severity, clean, self._options)


def corrupted_images(
    settings: Corruption, options: LoadOptions, device: torch.device
) -> Made | Published:
    """ValueError or FileNotFoundError where a corruption that is asked for is not there."""
    for name in settings.corruptions:
        if name not in ALL:
            raise ValueError(
                f"--corruptions {name}: no corruption is called so{nearest(name, [*ALL])}"
            )
    source: Made | Published
    source = Published(settings, options) if settings.published else Made(settings, device)
    if source.left_out:
        names = ", ".join(source.left_out)
        why = "the published files have none"
        if not settings.published:
            why = "it needs photographs, see docs/robustness.md"
        ranks.log(f"the mean is over {len(source.names)} corruptions, without {names}: {why}")
    return source
