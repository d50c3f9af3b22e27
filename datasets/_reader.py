"""What the data sets whose images are rows with columns have in common: all but how their rows are read."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._archive import ArchiveFolder
from ._folders import Listing, NoTrainingImages
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split
from ._inventory import Inventory, take_inventory
from ._rows import Parts, images_of, listings_of, split_of, unsplit_of
from ._table import Columns
from ._tree import Node
from .image_folder import WITH_VALIDATION

NOT_IN_A_ROW = "in no row that is used"


@dataclass(frozen=True)
class Reader:
    """The functions that a DATASET of rows has."""

    parts: Callable[..., Parts]
    """parts(root, columns, **variant) -> the rows of every split."""

    def load(
        self,
        root: str | Path,
        split: str,
        options: LoadOptions = DEFAULTS,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        **variant: Any,
    ) -> ImageSet:
        """Mean and std are measured on the training images. FileNotFoundError or ValueError in one line.

        Without a test split a tenth of each class is, as for class folders.
        """
        check_split(split, WITH_VALIDATION)
        columns = Columns(image_column, label_column, split_column)
        return images_of(listings_of(self.parts(root, columns, **variant)), split, options)

    def listing(
        self,
        root: str | Path,
        split: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        **variant: Any,
    ) -> Listing:
        """The images of a split, not read yet."""
        check_split(split, WITH_VALIDATION)
        columns = Columns(image_column, label_column, split_column)
        return split_of(listings_of(self.parts(root, columns, **variant)), split)

    def validation(self, root: str | Path, **variant: Any) -> bool:
        """Whether there are validation images beside test images. What is wrong with root is said when it is loaded."""
        try:
            return bool(self.listing(root, "val", **variant).names)
        except (ValueError, FileNotFoundError):
            return False

    def unsplit(
        self,
        root: str | Path,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        **variant: Any,
    ) -> Listing | None:
        """All labelled images, or those of a test split alone; None where there are training and test images."""
        columns = Columns(image_column, label_column, split_column)
        return unsplit_of(self.parts(root, columns, **variant))

    def inventory(
        self,
        root: str | Path,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
    ) -> Inventory:
        """Every file below the folder of rows that name files: used, or left out."""
        parts = self.parts(root, Columns(image_column, label_column, split_column))
        assert isinstance(parts.root, (Path, ArchiveFolder))
        top = Node(parts.root)
        try:
            listings = listings_of(parts)
        except NoTrainingImages:
            whole = unsplit_of(parts)
            listings = {"test": whole} if whole else {}
        used = {os.path.normpath(name) for part in listings.values() for name in part.names}
        below = {prefix + name for prefix, node in top.nodes() for name in node.images}
        return take_inventory(top, used & below, lambda name: NOT_IN_A_ROW)
