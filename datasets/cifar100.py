"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 32 px in 100 classes (the fine labels)."""

from pathlib import Path

import torchvision

from ._archive import Inside
from ._folders import Listing
from ._images import ImageSet
from ._published import Published, listing_of, load_published, recognised

ALIASES = ("cifar",)  # in the scripts of DHVT and LocalViT


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
    return load_published(CIFAR100, root, split, source_size, download, stream, workers)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(CIFAR100, root, split)


def recognise(root: Path | Inside) -> str | None:
    return (
        "cifar100"
        if recognised(CIFAR100, root, {"aquarium_fish", "pickup_truck", "worm"})
        else None
    )


def _read(root: Path, split: str, download: bool):
    data = torchvision.datasets.CIFAR100(root, train=split == "train", download=download)
    return data.data.transpose(0, 3, 1, 2), data.targets, tuple(data.classes)


CIFAR100 = Published(
    title="CIFAR-100",
    binary={"train": "cifar-100-python/train", "test": "cifar-100-python/test"},
    read=_read,
    mean=(0.5070, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
