"""Every setting of `multicrop check`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .checks import AT_LEAST_1, check_values
from .data import Columns
from .sizes import ImageSize


@dataclass(frozen=True)
class Recipe(Columns):
    """Say what a path holds and how to train on it; or, with --verify, what of it is damaged."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder, archive, table, or files of images as docs/datasets.md lists them; with --verify also a run folder, a
    checkpoint, stored maps, or an image cache."""
    dataset: str | None = None
    """The data set that it is (None: what it looks like)."""
    decode: bool = True
    """Decode every image, to find those that cannot be; false reads only the headers."""
    image_size: ImageSize | None = None
    """Side in pixels to which images would be brought, or height and width (None: squares of a usual size)."""
    verify: bool = False
    """Only compare every byte that has a checksum, below the path and in its image cache; exit code 2 where one is
    damaged."""
    workers: int | None = None
    """Processes that decode (None: one per processor)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "workers", "image_size")
