"""DataSet: what a file of datasets/ declares. It ends with DATASET = DataSet(...), and its name is the data set's.

The arguments that are not functions are literals, so that names and the documentation's table can be read from the
file without importing it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._folders import Folder, Listing
from ._images import ImageSet
from ._inventory import Inventory


@dataclass(frozen=True)
class DataSet:
    """One source of images."""

    title: str
    """The data set's published name."""
    layout: str
    """What --datapath holds: one line of Markdown."""
    load: Callable[..., ImageSet]
    """load(root, split, options: LoadOptions, **variant) -> the images of "train" or "test"."""
    listing: Callable[..., Listing | None] | None = None
    """listing(root, split, **variant) -> the image files of a split, not read yet; None where they are binary files."""
    recognise: Callable[[Folder], str | None] | None = None
    """recognise(folder) -> the name, variant included, if the folder looks like this data set."""
    validation: Callable[..., bool] | None = None
    """validation(root, **variant) -> whether load and listing take "val" too: a split beside train and test."""
    unsplit: Callable[..., Listing | None] | None = None
    """unsplit(root, **variant) -> all images where no training and test split are beside each other, else None."""
    inventory: Callable[..., Inventory] | None = None
    """inventory(root, **variant) -> every file below root, used or left out; None where that says nothing."""
    labelled: bool = True
    """False: there are no labels, and so no test split."""
    own: bool = False
    """True: images of the user's own, which no published recipe is for."""
    aliases: tuple[str, ...] = ()
    """Other names of the data set."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Names of its variants, each with the further keyword arguments that it gives to load and listing."""
