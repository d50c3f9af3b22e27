"""CIFAR-10, CIFAR-100 and SVHN: torchvision's binary files, or the same images in class folders."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch

from ._archive import Inside
from ._folders import (
    Listing,
    class_folders,
    class_names,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import ImageSet, check_split

Read = Callable[[Path, str, bool], tuple[np.ndarray, list[int], tuple[str, ...]]]


@dataclass(frozen=True)
class Published:
    """What tells one of these sets from another."""

    title: str
    binary: dict[str, str]  # per split, a file that torchvision expects below its root
    read: Read  # (root, split, download) -> pixels uint8 (N, 3, 32, 32), labels, classes; torchvision's errors
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_published(
    data: Published,
    root: str | Path,
    split: str,
    source_size: int,
    download: bool,
    stream: bool | None,
    workers: int | None,
) -> ImageSet:
    """The split from wherever it lies below root, downloaded first when it is missing and `download` is set."""
    check_split(split)
    root = Path(root).expanduser()
    try:
        found = listing_of(data, root, split)
    except FileNotFoundError as error:
        if not download:
            raise FileNotFoundError(f"{error}; --download fetches it") from None
        return _download(data, root, split)
    if found is None:
        return _read(data, _binary(data, existing_folder(root), split), split)
    return image_set(found, source_size, (data.mean, data.std), stream, workers)


def listing_of(data: Published, root: str | Path, split: str) -> Listing | None:
    """The image files of a split, not read yet; None where the binary files are. FileNotFoundError without either."""
    check_split(split)
    missing = f"there is no {data.title} in {root}: looked for {data.binary[split]} and {split}/<class>/ folders"
    missing += ", there and in a sub-folder of its name"
    if not Path(root).expanduser().exists():
        raise FileNotFoundError(missing)
    place = _binary(data, existing_folder(root), split)
    if isinstance(place, Inside):
        raise ValueError(
            f"{place.file} holds the binary files of {data.title}: unpack it and give the folder"
        )
    if place is not None:
        return None
    places = _places(data, existing_folder(root))
    place = next((p for p in places if class_names(p / "train") or class_names(p / split)), None)
    if place is None:
        raise FileNotFoundError(missing)
    return split_by_class(place, split, superclasses=True)


def recognised(data: Published, root: Path | Inside, classes: set[str]) -> bool:
    """Whether root has the binary files, or class folders some of which are called so."""
    if _binary(data, root, "train") is not None:
        return True
    return any(
        classes <= set(class_folders(place / "train", True)) for place in _places(data, root)
    )


def _binary(data: Published, root: Path | Inside, split: str) -> Path | Inside | None:
    return next(
        (place for place in _places(data, root) if (place / data.binary[split]).exists()), None
    )


def _places(data: Published, root: Path | Inside) -> list[Path | Inside]:
    """root, the folder above when root is the inner folder itself, sub-folders called like the set."""
    inner = Path(data.binary["train"]).parent.name
    plain = re.sub(r"\W", "", data.title).lower()
    named = [
        root / name for name in class_names(root) if re.sub(r"[\W_]", "", name).lower() == plain
    ]
    return [root, *([root.parent] if root.name == inner else []), *named]


def _read(data: Published, place: Path, split: str, download: bool = False) -> ImageSet:
    try:
        pixels, labels, classes = data.read(place, split, download)
    except RuntimeError as error:
        if download:
            raise
        hint = "delete them and pass --download"
        raise ValueError(
            f"the {data.title} files in {place} are incomplete or damaged; {hint}"
        ) from error
    pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    return ImageSet(
        pixels, torch.as_tensor(labels, dtype=torch.int64), classes, data.mean, data.std
    )


def _download(data: Published, root: Path, split: str) -> ImageSet:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(
            root / ".download.lock"
        ):  # one process downloads, the others find the files
            return _read(data, root, split, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(
            f"could not download {data.title} to {root}: {reason}; check the network and the disk"
        ) from error
