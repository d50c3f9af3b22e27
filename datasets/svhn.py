"""SVHN (Netzer et al. 2011): 73,257 + 26,032 house-number digits of 32 px in 10 classes; the extra set is not used."""

from pathlib import Path

import torchvision

from ._data_set import DataSet
from ._folders import Folder, Listing
from ._images import DEFAULTS, ImageSet, LoadOptions
from ._published import (
    Binary,
    Published,
    first_size,
    has_published,
    listing_of,
    load_published,
)

DIGITS = tuple("0123456789")


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """{train,test}_32x32.mat below root, or root/{train,test}/<digit>/ image files.

    FileNotFoundError when root has neither and options.download is not set; OSError when the download fails.
    """
    return load_published(SVHN, root, split, options)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(SVHN, root, split)


def recognise(root: Folder) -> str | None:
    """By its binary files, or by ten classes that are digits and images of 32 px: MNIST has these classes too."""
    if not has_published(SVHN, root, set(DIGITS)):
        return None
    images = listing_of(SVHN, str(root), "train")
    if images is not None and (images.classes != DIGITS or first_size(images) != (32, 32)):
        return None
    return "svhn"


def _read(root: Path, split: str, download: bool) -> Binary:
    """torchvision's arrays."""
    data = torchvision.datasets.SVHN(root, split=split, download=download)
    return data.data, data.labels, DIGITS


SVHN = Published(
    title="SVHN",
    binary={"train": "train_32x32.mat", "test": "test_32x32.mat"},
    read=_read,
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
)

DATASET = DataSet(
    title="SVHN",
    layout="torchvision's files (`--download` fetches them), or `{train,test}/<class>/*.png`",
    load=load,
    listing=listing,
    recognise=recognise,
)
