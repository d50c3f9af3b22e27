"""SVHN (Netzer et al. 2011): 73,257 + 26,032 house-number digits of 32 px in 10 classes; the extra set is not used."""

from pathlib import Path

import torchvision

from ._archive import Inside
from ._folders import Listing
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
    """{train,test}_32x32.mat below root, or root/{train,test}/<digit>/ image files.

    FileNotFoundError when root has neither and `download` is not set; OSError when the download fails.
    """
    return load_published(SVHN, root, split, source_size, download, stream, workers)


def listing(root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where they are torchvision's binary ones."""
    return listing_of(SVHN, root, split)


def recognise(root: Path | Inside) -> str | None:
    return "svhn" if recognised(SVHN, root, set("0123456789")) else None


def _read(root: Path, split: str, download: bool):
    data = torchvision.datasets.SVHN(root, split=split, download=download)
    return data.data, data.labels, tuple(str(digit) for digit in range(10))


SVHN = Published(
    title="SVHN",
    binary={"train": "train_32x32.mat", "test": "test_32x32.mat"},
    read=_read,
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
)
