"""Image files in folders: which there are, which class each has, and the ImageSet that they make."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ._cache import decoded
from ._images import ImageSet

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".webp", ".tif", ".tiff", ".gif")
EVALUATION = ("test", "val", "valid", "validation")  # names of the folder that is the public evaluation split


@dataclass(frozen=True)
class Listing:
    """Image files of one split, not read yet."""

    root: Path
    names: list[str]  # relative to root, with /
    labels: list[int] | None
    classes: tuple[str, ...]
    part: str = ""  # tells apart listings that share a root


def existing_folder(root: str | Path) -> Path:
    """The folder, or one line that says what is wrong with it."""
    root = Path(root).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise ValueError(f"{root} is a file; a folder of images is expected")
    raise FileNotFoundError(f"there is no folder {root}")


def image_names(folder: Path) -> list[str]:
    """Relative names of all image files below, in sorted order; hidden files and folders are left out."""
    return sorted(_walk(folder, "", frozenset()))


def _walk(folder: Path, prefix: str, parents: frozenset) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in parents:  # a link back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", parents | {here})
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
                yield prefix + entry.name


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders, one per class, in sorted order; () when there is no such folder."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__"))]
    return tuple(sorted(names))


def by_class(folder: Path, classes: tuple[str, ...] | None = None) -> Listing:
    """Images of folder/<class>/**. `classes` are those of the training split; without it every class has an image."""
    found = class_names(folder)
    if not found:
        raise ValueError(f"{folder} has no class folders; images without classes are --dataset images")
    listed = {name: image_names(folder / name) for name in found}
    if not any(listed.values()):
        raise ValueError(f"the class folders of {folder} hold no images")
    if classes is None:
        classes = found
        _no_empty_class(folder, listed)
    unknown = [name for name in found if listed[name] and name not in classes]
    if unknown:
        raise ValueError(f"{folder / unknown[0]} is a class that the training split does not have")
    known = [name for name in found if name in classes]
    names = [f"{name}/{file}" for name in known for file in listed[name]]
    labels = [classes.index(name) for name in known for _ in listed[name]]
    return Listing(folder, names, labels, classes)


def _no_empty_class(folder: Path, listed: dict[str, list[str]]) -> None:
    empty = [name for name, files in listed.items() if not files]
    if empty:
        raise ValueError(f"class folder {folder / empty[0]} holds no images ({len(empty)} of {len(listed)} are empty)")


def split_by_class(root: Path, split: str) -> Listing:
    """Images of root/train/<class>/** or of the evaluation folder beside it, with the training split's classes."""
    classes = class_names(root / "train")
    if split == "train":
        return by_class(root / "train")
    folder = evaluation_folder(root)
    if folder is None:
        raise FileNotFoundError(f"{root} has no {', '.join(EVALUATION[:-1])} or {EVALUATION[-1]} folder with classes")
    return by_class(folder, classes or None)


def evaluation_folder(root: Path) -> Path | None:
    """The first of test, val, valid, validation that has class folders."""
    return next((root / name for name in EVALUATION if class_names(root / name)), None)


def above_train(root: Path) -> Path:
    """The data set's root when its `train` folder was given, as the published pretraining commands do."""
    return root.parent if root.name == "train" and not (root / "train").is_dir() else root


def image_set(listing: Listing, source_size: int, statistics: tuple[tuple, tuple] | None = None) -> ImageSet:
    """Decode a listing (through the cache). `statistics` are mean and std; without them the pixels' own are used."""
    if not listing.names:
        raise ValueError(f"{listing.root} holds no images")
    cached = decoded(listing.root, listing.names, source_size, listing.part)
    labels = None if listing.labels is None else torch.tensor(listing.labels)[cached.kept]
    mean, std = statistics or (cached.mean, cached.std)
    return ImageSet(cached.pixels, labels, listing.classes, mean, std)
