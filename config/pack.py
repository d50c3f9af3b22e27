"""Every setting of `multicrop pack`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from .data import Columns


@dataclass(frozen=True)
class Recipe(Columns):
    """Copy the image files of both splits into LMDB files, which are read in place and can be streamed."""

    ALIASES: ClassVar = {"out": "output_dir"}

    path: Annotated[str, tyro.conf.Positional]
    """Folder, archive or table."""
    output_dir: str
    """Folder of the files."""
    dataset: str | None = None
    """The data set that it is (None: what it looks like)."""
