"""LoadOptions and ImageSet: what load(root, split, options) of every file of datasets/ takes and returns."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ._cache import map_pixels
from ._convert import Conversion

SPLITS = ("train", "test")
ROUNDING = 1e-6  # what sums of a constant channel's levels may leave of its deviation
ONE_LEVEL = 1 / 255


@dataclass(frozen=True)
class LoadOptions:
    """How images are read. The same options go to every data set, and each ignores what does not concern it."""

    source_size: int | tuple[int, int] = 64
    """Side in pixels, or height and width, at which image files are stored."""
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
    """Standard deviation per channel, in units of 0..1; of a constant one what it can be divided by, see below."""
    conversion: Conversion | None = None
    """How image files became these pixels, nothing left open; None of pixels that were not made of files."""
    constant: tuple[int, ...] = ()
    """The channels that do not vary: their std is replaced, since normalisation divides by it."""
    file: Path | None = None
    """That of the image cache over which the pixels are a memory map, if they are."""
    checksums: tuple[int, ...] | None = None
    """The CRC-32 of every 16 MiB of that file, where they have just been compared."""

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} images have {len(self.labels)} labels")
        constant = constant_channels(self.std)
        if constant:
            object.__setattr__(self, "std", without_zeros(self.std, constant))
            object.__setattr__(self, "constant", constant)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes of the node, which map the file themselves."""
        if self.file is None:
            return self.__dict__
        return {**self.__dict__, "pixels": tuple(self.pixels.shape)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.__dict__["pixels"] = map_pixels(self.file, state["pixels"])

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def in_files(self) -> bool:
        """Whether the pixels lie in files, so that to send these images to another process costs little."""
        return self.file is not None or not isinstance(self.pixels, torch.Tensor)


def like(options: LoadOptions, images: ImageSet) -> LoadOptions:
    """The options with which other images, say a test split, are converted as these were."""
    return replace(options, conversion=images.conversion or options.conversion)


def constant_channels(std: tuple[float, ...]) -> tuple[int, ...]:
    """The channels whose deviation (in units of 0..1) is nothing but rounding or the noise of a file format.

    That is less than one level of 255, where another channel varies ten times as much: a fluorescence image in green
    alone has it in red and blue. A set of dim images, with a small deviation in every channel, has none.
    """
    noise = max(ROUNDING, min(ONE_LEVEL, max(std, default=0.0) / 10))
    return tuple(channel for channel, value in enumerate(std) if value <= noise)


def without_zeros(std: tuple[float, ...], constant: tuple[int, ...]) -> tuple[float, ...]:
    """Deviations to divide by: a constant channel gets that of the channel that varies most, or 1 if none does.

    So colour operations that mix the channels leave it on their scale.
    """
    varying = [value for channel, value in enumerate(std) if channel not in constant]
    substitute = max(varying, default=1.0)
    return tuple(substitute if channel in constant else value for channel, value in enumerate(std))


def check_split(split: str, splits: tuple[str, ...] = SPLITS) -> None:
    """ValueError unless it is one of them."""
    if split not in splits:
        raise ValueError(f"no split is called {split!r}: it is 'train' or 'test'")
