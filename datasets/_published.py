"""CIFAR-10, CIFAR-100 and SVHN: torchvision's binary files, or the same images in class folders."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock
import numpy as np
import torch

from ._archive import ArchiveFolder
from ._decode import size
from ._folders import (
    Folder,
    Listing,
    class_folders,
    class_names,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import ImageSet, LoadOptions, check_split
from ._places import places

# Pixels uint8 (N, 3, 32, 32), labels, classes
Binary = tuple[np.ndarray, list[int], tuple[str, ...]]


@dataclass(frozen=True)
class Published:
    """What tells one of these sets from another."""

    title: str
    """Its published name."""
    binary: dict[str, str]
    """For each split a file that torchvision expects below its root."""
    read: Callable[[Path, str, bool], Binary]
    """read(root, split, download) with torchvision's errors."""
    mean: tuple[float, ...]
    """Per channel, in units of 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel, in units of 0..1."""


def load_published(data: Published, root: str | Path, split: str, options: LoadOptions) -> ImageSet:
    """The split from wherever it lies below root, downloaded first when it is missing and options.download is set."""
    check_split(split)
    root = Path(root).expanduser()
    try:
        listing = listing_of(data, root, split)
    except FileNotFoundError as error:
        if not options.download:
            raise FileNotFoundError(f"{error}; --download fetches it") from None
        return _download(data, root, split)
    if listing is not None:
        return image_set(listing, options, (data.mean, data.std), trains=split == "train")
    place = _binary_place(data, existing_folder(root), split)
    assert isinstance(place, Path)  # else listing_of had raised an error
    return _read(data, place, split)


def listing_of(data: Published, root: str | Folder, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where the binary files are. FileNotFoundError without either."""
    check_split(split)
    missing = (
        f"there is no {data.title} in {root}: looked for {data.binary[split]} and {split}/<class>/ folders, "
        "there and in a sub-folder of its name"
    )
    if not isinstance(root, ArchiveFolder) and not Path(root).expanduser().exists():
        raise FileNotFoundError(missing)
    folder = existing_folder(root)
    binary = _binary_place(data, folder, split)
    if isinstance(binary, ArchiveFolder):
        raise ValueError(
            f"{binary.file} holds the binary files of {data.title}: unpack it and give the folder"
        )
    if binary is not None:
        return None
    for place in _places(data, folder):
        if class_names(place / "train") or class_names(place / split):
            return split_by_class(place, split, superclasses=True)
    raise FileNotFoundError(missing)


def has_published(data: Published, root: Folder, classes: set[str]) -> bool:
    """Whether root has the binary files, or class folders some of which are called so."""
    if _binary_place(data, root, "train") is not None:
        return True
    folders = [class_folders(place / "train", True) for place in _places(data, root)]
    return any(classes <= set(names) for names in folders)


def first_size(images: Listing) -> tuple[int, int] | None:
    """Width and height of the first image; None when its header is not readable."""
    with (
        TemporaryDirectory() as work,
        places(images.root.resolve(), images.names[:1], Path(work)) as image_places,
    ):
        return size(image_places[0])


def _binary_place(data: Published, root: Folder, split: str) -> Folder | None:
    """The folder that has the binary file of a split."""
    for place in _places(data, root):
        if (place / data.binary[split]).exists():
            return place
    return None


def _places(data: Published, root: Folder) -> list[Folder]:
    """root, the folder above when root is the inner folder itself, sub-folders called like the set."""
    places = [root]
    inner = Path(data.binary["train"]).parent.name
    if root.name == inner:
        places.append(root.parent)
    title = re.sub(r"\W", "", data.title).lower()
    for name in class_names(root):
        if re.sub(r"[\W_]", "", name).lower() == title:
            places.append(root / name)
    return places


def _read(data: Published, place: Path, split: str, download: bool = False) -> ImageSet:
    """The split from torchvision's files. ValueError when they are damaged."""
    try:
        pixels, labels, classes = data.read(place, split, download)
    except RuntimeError as error:
        if download:
            raise
        hint = "delete them and pass --download"
        raise ValueError(
            f"the {data.title} files in {place} are incomplete or damaged; {hint}"
        ) from error
    return ImageSet(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.as_tensor(labels, dtype=torch.int64),
        classes,
        data.mean,
        data.std,
    )


def _download(data: Published, root: Path, split: str) -> ImageSet:
    """The split, fetched by torchvision. OSError when that fails."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        # One process downloads, the others find the files.
        with filelock.FileLock(root / ".download.lock"):
            return _read(data, root, split, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(
            f"could not download {data.title} to {root}: {reason}; check the network and the disk"
        ) from error
