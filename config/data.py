"""Which images: the settings of a data set, a part of every recipe that reads one."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from .checks import AT_LEAST_1, check_values, require

PIXEL_FLAGS: dict[str, Any] = {"fit": None, "channels": "auto", "value_range": None}
"""Flags that say how files become pixels, and what they were in runs that did not have them. A resumed run may state
them or not: its pixels are compared."""

NEW_COLUMNS = dict.fromkeys(("image_column", "label_column", "split_column"))
"""What older runs did not have: each was left open."""


@dataclass(frozen=True)
class ImageFiles:
    """The images. What is None follows from what the weights were made with."""

    dataset: str | None = None
    """Name of a data set, see above (None: else shapes, which is embedded); multicrop check PATH says which."""
    datapath: str | None = None
    """Folder of the data set (None: the weights' own if they have the same data set, else ./data)."""
    download: bool = False
    """Fetch the data set where torchvision can."""
    source_size: int | None = None
    """Side in pixels at which image files are stored, the shorter one where the image size is height and width (None:
    what the weights' run was given, else the image size)."""
    workers: int | None = None
    """Processes per rank that decode streamed images (None: one per processor)."""

    fit: Literal["crop", "squeeze", "pad"] | None = None
    """How image files that are not square become squares: their centre, resized in both directions, or with a border of
    their mean colour (None: as for the weights; else crop, and for one's own images squeeze where a crop would leave
    out more than 40 % of the pixels)."""
    channels: Literal["auto", "1", "3", "all"] = "auto"
    """Channels of image files that are used: grey, red green blue, or every channel and page of the files, of which the
    first three are taken as colours (auto: as for the weights, else 3)."""
    value_range: tuple[float, float] | None = None
    """Values that become black and white, of image files of any number of bits (None: as for the weights, else
    measured on the training images where files have more than 8 bits)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "source_size", "workers")
        if self.value_range is not None:
            low, high = self.value_range
            words = "must be two numbers, the first below the second"
            holds = isfinite(low) and isfinite(high) and low < high
            require(holds, "value_range", self.value_range, words)


@dataclass(frozen=True)
class Reading(ImageFiles):
    """The images, which a run may store. What is None follows from what the weights were made with."""

    stream: bool | None = None
    """Decode image files anew whenever they are needed, in worker processes, instead of storing them (None: what would
    take more than half of this machine's memory)."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What of a table, a parquet file or a Hugging Face data set is read."""

    image_column: str | None = None
    """Column that names or holds the images (None: one that has a usual name: file, path, image, id, ...)."""
    label_column: str | None = None
    """Column of their labels (None: label, class, target, category, ...)."""
    split_column: str | None = None
    """Column that says train, test or val of each image (None: split, set, ..., where there is one)."""

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are stated, by their flags."""
        values = {name: getattr(self, name) for name in NEW_COLUMNS}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class DataSettings(Columns, Reading):
    """The images. What is None follows from what the weights were made with."""
