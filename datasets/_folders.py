"""Image files in folders or in archives: which there are, which class each has, and the ImageSet that they make."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ._archive import Inside, is_archive, opened
from ._cache import common_side, decoded
from ._images import ImageSet
from ._places import Root, places
from ._stream import Streamed, statistics

ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".ppm",
    ".pgm",
    ".pbm",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
)
EVALUATION = (
    "test",
    "val",
    "valid",
    "validation",
)  # names of the folder that is the public evaluation split
RESIDENT = (
    0.5  # share of the machine's memory that stored pixels may take; a larger set is streamed
)


@dataclass(frozen=True)
class Listing:
    """Image files of one split, not read yet."""

    root: Root
    names: list[str]  # relative to root, with /
    labels: list[int] | None
    classes: tuple[str, ...]
    part: str = ""  # tells apart listings that share a root


def existing_folder(root: str | Path | Inside) -> Path | Inside:
    """The folder, or an archive as one, or one line that says what is wrong with it."""
    if isinstance(root, Inside):
        return root
    root = Path(root).expanduser()
    if root.is_dir():
        return root
    if is_archive(root):
        return opened(root)
    if root.exists():
        raise ValueError(
            f"{root} is a file; a folder of images is expected, or a .zip or .tar of one"
        )
    raise FileNotFoundError(f"there is no folder {root}")


def image_names(folder: Path | Inside) -> list[str]:
    """Relative names of all image files below, in sorted order; hidden files and folders are left out."""
    if isinstance(folder, Inside):
        return sorted(
            name
            for name in folder.files()
            if name.lower().endswith(ENDINGS) and "/." not in f"/{name}"
        )
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


def class_names(folder: Path | Inside) -> tuple[str, ...]:
    """The sub-folders, one per class, in sorted order; () when there is no such folder."""
    if not folder.is_dir():
        return ()
    if isinstance(folder, Inside):
        names = folder.folders()
    else:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    return tuple(sorted(name for name in names if not name.startswith((".", "__"))))


def by_class(
    folder: Path | Inside, classes: tuple[str, ...] | None = None, superclasses: bool = False
) -> Listing:
    """Images of folder/<class>/**. `classes` are those of the training split; without it every class has an image.

    superclasses: where every folder in `folder` holds folders, those are the classes.
    """
    found = class_folders(folder, superclasses)
    listed = {name: image_names(folder / below) for name, below in found.items()}
    if not any(listed.values()) and isinstance(folder, Path) and any(folder.glob("*.lmdb")):
        raise ValueError(f"{folder} holds .lmdb files: they are --dataset lmdb")
    if not found:
        raise ValueError(
            f"{folder} has no class folders; images without classes are --dataset images"
        )
    if not any(listed.values()):
        raise ValueError(f"the class folders of {folder} hold no images")
    if classes is None:
        classes = tuple(found)
        _no_empty_class(folder, listed)
    unknown = [name for name in found if listed[name] and name not in classes]
    if unknown:
        raise ValueError(
            f"{folder / found[unknown[0]]} is a class that the training split does not have"
        )
    number = {name: label for label, name in enumerate(classes)}
    known = [name for name in found if name in number]
    names = [f"{found[name]}/{file}" for name in known for file in listed[name]]
    labels = [number[name] for name in known for _ in listed[name]]
    return Listing(folder, names, labels, classes)


def class_folders(folder: Path | Inside, superclasses: bool = False) -> dict[str, str]:
    """Each class and its folder below `folder`, in the order of labels."""
    names = class_names(folder)
    below = {name: class_names(folder / name) for name in names} if superclasses else {}
    if below and all(below.values()):
        return dict(sorted((leaf, f"{name}/{leaf}") for name in names for leaf in below[name]))
    return {name: name for name in names}


def by_list(
    root: Path | Inside, names: list[str], labels: list[int], classes: tuple[str, ...], said: str
) -> Listing:
    """Images that a file of the data set names. FileNotFoundError when some of them are not there."""
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{said} names {len(missing)} images of {len(names)} that are not in {root}, e.g. {missing[0]}: "
            "fetch or unpack them again"
        )
    return Listing(root, names, labels, classes)


def _no_empty_class(folder: Path | Inside, listed: dict[str, list[str]]) -> None:
    empty = [name for name, files in listed.items() if not files]
    if empty:
        raise ValueError(
            f"class folder {folder / empty[0]} holds no images ({len(empty)} of {len(listed)} are empty)"
        )


def split_by_class(root: Path | Inside, split: str, superclasses: bool = False) -> Listing:
    """Images of root/train/<class>/** or of the evaluation folder beside it, with the training split's classes."""
    if split == "train":
        return by_class(root / "train", None, superclasses)
    folder = evaluation_folder(root)
    if folder is None:
        raise FileNotFoundError(
            f"{root} has no {', '.join(EVALUATION[:-1])} or {EVALUATION[-1]} folder with classes"
        )
    return by_class(
        folder, tuple(class_folders(root / "train", superclasses)) or None, superclasses
    )


def evaluation_folder(root: Path | Inside) -> Path | Inside | None:
    """The first of test, val, valid, validation that has class folders."""
    return next((root / name for name in EVALUATION if class_names(root / name)), None)


def above_train(root: Path | Inside) -> Path | Inside:
    """The data set's root when its `train` folder was given, as the published pretraining commands do."""
    return root.parent if root.name == "train" and not (root / "train").is_dir() else root


def image_set(
    listing: Listing,
    source_size: int,
    constants: tuple[tuple, tuple] | None = None,
    stream: bool | None = None,
    workers: int | None = None,
) -> ImageSet:
    """Decode a listing through the cache, or stream it: then `workers` processes decode what is asked for, each time.

    `constants` are mean and std; without them the pixels' own are used. stream=None: what would fill the memory is.
    """
    if not listing.names:
        raise ValueError(f"{listing.root} holds no images")
    labels = None if listing.labels is None else torch.tensor(listing.labels)
    if _too_large(listing, source_size) if stream is None else stream:
        pixels = _streamed(listing, labels, source_size, workers)
        return ImageSet(pixels, labels, listing.classes, *(constants or statistics(pixels)))
    cached = decoded(listing.root, listing.names, source_size, listing.part)
    labels = None if labels is None else labels[cached.kept]
    return ImageSet(
        cached.pixels, labels, listing.classes, *(constants or (cached.mean, cached.std))
    )


def _streamed(
    listing: Listing, labels: torch.Tensor | None, source_size: int, workers: int | None
) -> Streamed:
    with places(listing.root.resolve(), listing.names, None) as found:
        return Streamed(
            found, listing.names, labels, common_side(found, source_size) or source_size, workers
        )


def _too_large(listing: Listing, source_size: int) -> bool:
    size, memory = (
        len(listing.names) * 3 * source_size**2,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if size <= RESIDENT * memory:
        return False
    print(
        f"{listing.root}: {len(listing.names)} images of {source_size} px would take {size / 1e9:.0f} GB, this machine "
        f"has {memory / 1e9:.0f} GB of memory: they are streamed from their files (--stream false stores them)",
        file=sys.stderr,
    )
    return True
