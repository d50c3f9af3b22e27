"""LoadOptions and ImageSet: what load(root, split, options) of every file of datasets/ takes and returns."""

from dataclasses import dataclass, replace

import torch

from ._convert import Conversion

SPLITS = ("train", "test")


@dataclass(frozen=True)
class LoadOptions:
    """How images are read. The same options go to every data set, and each ignores what does not concern it."""

    source_size: int = 64
    """Side in pixels at which image files are stored."""
    download: bool = False
    """Fetch files that are missing, where torchvision can."""
    stream: bool | None = None
    """Decode image files whenever they are needed, not once into the cache (None: what would fill the memory)."""
    workers: int | None = None
    """Number of processes that decode streamed images (None: one per processor and rank)."""
    conversion: Conversion = Conversion()
    """How image files become uint8 pixels: shape, channels, range of values. What it leaves open is measured."""


DEFAULTS = LoadOptions()


@dataclass(frozen=True)
class ImageSet:
    """N images of one split, stored side by side, and what is needed to normalise and score them."""

    pixels: torch.Tensor
    """uint8 (N, C, H, W), in memory or over a memory map of the cache; streamed images only index like one."""
    labels: torch.Tensor | None
    """int64 (N,); None when the images have no labels."""
    classes: tuple[str, ...]
    """Class names in label order; () when the images have no labels."""
    mean: tuple[float, ...]
    """Per channel, in units of 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel, in units of 0..1."""
    conversion: Conversion | None = None
    """How image files became these pixels, nothing left open; None of pixels that were not made of files."""

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.pixels)


def like(options: LoadOptions, images: ImageSet) -> LoadOptions:
    """The options with which other images, say a test split, are converted as these were."""
    return replace(options, conversion=images.conversion or options.conversion)


def check_split(split: str) -> None:
    """ValueError unless it is one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}: it is 'train' or 'test'")
