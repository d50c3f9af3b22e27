"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32 px in 10 classes."""

from pathlib import Path

import torchvision

from ._data_set import DataSet
from ._folders import Folder, Listing, above_train, class_names
from ._images import DEFAULTS, ImageSet, LoadOptions
from ._published import Binary, Published, has_published, listing_of, load_published


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """torchvision's files below root, or root/{train,test}/<class>/ image files, which may be larger.

    FileNotFoundError when root has neither and options.download is not set; OSError when the download fails.
    """
    return load_published(CIFAR10, root, split, options)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(CIFAR10, root, split)


def recognise(root: Folder) -> str | None:
    """A folder `valid` is CINIC-10's, which has the same classes."""
    if class_names(above_train(root) / "valid"):
        return None
    classes = {"airplane", "automobile", "truck"}
    return "cifar10" if has_published(CIFAR10, root, classes) else None


def _read(root: Path, split: str, download: bool) -> Binary:
    """torchvision's arrays."""
    data = torchvision.datasets.CIFAR10(root, train=split == "train", download=download)
    return data.data.transpose(0, 3, 1, 2), data.targets, tuple(data.classes)


CIFAR10 = Published(
    title="CIFAR-10",
    binary={"train": "cifar-10-batches-py/data_batch_1", "test": "cifar-10-batches-py/test_batch"},
    read=_read,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

DATASET = DataSet(
    title="CIFAR-10",
    layout="torchvision's files (`--download` fetches them), or `{train,test}/<class>/*.png`",
    load=load,
    listing=listing,
    recognise=recognise,
)
