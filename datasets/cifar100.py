"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32 px in 100 classes (the fine labels)."""

from pathlib import Path

import torchvision

from ._data_set import DataSet
from ._folders import Folder, Listing
from ._images import DEFAULTS, ImageSet, LoadOptions
from ._published import Binary, Published, has_published, listing_of, load_published


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """torchvision's files below root, or root/{train,test}/<class>/ image files, which may be larger.

    FileNotFoundError when root has neither and options.download is not set; OSError when the download fails.
    """
    return load_published(CIFAR100, root, split, options)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(CIFAR100, root, split)


def recognise(root: Folder) -> str | None:
    """By three of its class names."""
    classes = {"aquarium_fish", "pickup_truck", "worm"}
    return "cifar100" if has_published(CIFAR100, root, classes) else None


def _read(root: Path, split: str, download: bool) -> Binary:
    """torchvision's arrays."""
    data = torchvision.datasets.CIFAR100(root, train=split == "train", download=download)
    return data.data.transpose(0, 3, 1, 2), data.targets, tuple(data.classes)


CIFAR100 = Published(
    title="CIFAR-100",
    binary={"train": "cifar-100-python/train", "test": "cifar-100-python/test"},
    read=_read,
    mean=(0.5070, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

DATASET = DataSet(
    title="CIFAR-100",
    layout="torchvision's files (`--download` fetches them), or `{train,test}/<class>/*.png`",
    load=load,
    listing=listing,
    recognise=recognise,
    aliases=("cifar",),  # in the scripts of DHVT and LocalViT
)
