"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32 px in 10 classes."""

from pathlib import Path

import torchvision

from ._archive import Inside
from ._folders import Listing, above_train, class_names
from ._images import ImageSet
from ._published import Published, listing_of, load_published, recognised


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
) -> ImageSet:
    """torchvision's files below root, or root/{train,test}/<class>/ image files, which may be larger.

    FileNotFoundError when root has neither and `download` is not set; OSError when the download fails.
    """
    return load_published(CIFAR10, root, split, source_size, download, stream, workers)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(CIFAR10, root, split)


def recognise(root: Path | Inside) -> str | None:
    """A folder `valid` is CINIC-10's, which has the same classes."""
    known = recognised(CIFAR10, root, {"airplane", "automobile", "truck"})
    return "cifar10" if known and not class_names(above_train(root) / "valid") else None


def _read(root: Path, split: str, download: bool):
    data = torchvision.datasets.CIFAR10(root, train=split == "train", download=download)
    return data.data.transpose(0, 3, 1, 2), data.targets, tuple(data.classes)


CIFAR10 = Published(
    title="CIFAR-10",
    binary={"train": "cifar-10-batches-py/data_batch_1", "test": "cifar-10-batches-py/test_batch"},
    read=_read,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
