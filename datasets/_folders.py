"""Image files in folders or in archives: which there are, which class each has, and the ImageSet that they make."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch.nn.modules.utils import _pair

from . import _look, _notes
from ._archive import ArchiveFolder, Folder, is_archive, open_archive
from ._bytes import Place, most_pixels
from ._cache import load_cached
from ._console import say_once
from ._decode_all import common_size
from ._images import ImageSet, LoadOptions
from ._names import Files, Names, compact
from ._places import Root, places
from ._stream import Streamed, say_lost_classes, statistics, unreadable_class
from ._tree import Node, is_system_name

# Folders that may be the public evaluation split
EVALUATION = ("test", "val", "valid", "validation")
RESIDENT = (
    0.5  # share of the machine's memory that stored pixels may take; a larger set is streamed
)
# Mean and std per channel, in units of 0..1
Constants = tuple[tuple[float, ...], tuple[float, ...]]


_any_class = False


@contextmanager
def any_class() -> Iterator[None]:
    """A split may have classes that the training split has not: for whoever needs no labels. They follow the others."""
    global _any_class
    before, _any_class = _any_class, True
    try:
        yield
    finally:
        _any_class = before


class NoTrainingImages(FileNotFoundError):
    """There is a test split and no training split."""


@dataclass(frozen=True)
class Listing:
    """Image files of one split, not read yet."""

    root: Root
    """The folder, archive or database that holds them."""
    names: list[str]
    """Relative to root, with /."""
    labels: list[int] | None
    """One for each name; None when the images have no labels."""
    classes: tuple[str, ...]
    """Class names in label order."""
    part: str = ""
    """Tells apart listings that share a root."""
    empty: tuple[str, ...] = ()
    """Classes of a training split that have no image: `image_set` refuses them, all at once."""
    unlabelled: str = ""
    """Why there are no labels, where that can be said."""


def existing_folder(root: str | Folder) -> Folder:
    """The folder, or an archive as one, or one line that says what is wrong with it."""
    if isinstance(root, ArchiveFolder):
        return root
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if is_archive(path):
        return open_archive(path)
    if path.exists():
        raise ValueError(
            f"{path} is a file; a folder of images is expected, or a .zip or .tar of one"
        )
    raise FileNotFoundError(f"there is no folder {path}")


def image_names(folder: Folder) -> list[str]:
    """Relative names of all image files below, in sorted order; see _tree.py for what is left out."""
    return Node(folder).image_names()


def class_names(folder: Folder) -> tuple[str, ...]:
    """The sub-folders, one per class, in sorted order; () when there is no such folder."""
    if not folder.is_dir():
        return ()
    if isinstance(folder, ArchiveFolder):
        names = folder.folders()
    else:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    return tuple(sorted(name for name in names if not is_system_name(name)))


def class_folders(folder: Folder, superclasses: bool = False) -> dict[str, str]:
    """Each class and its folder below `folder`, in the order of labels.

    superclasses: where every folder in `folder` holds folders, those are the classes.
    """
    names = class_names(folder)
    if superclasses:
        leaves: dict[str, str] = {}
        for name in names:
            inner = class_names(folder / name)
            if not inner:
                break
            leaves |= {leaf: f"{name}/{leaf}" for leaf in inner}
        else:
            return dict(sorted(leaves.items()))
    return {name: name for name in names}


def by_class(
    folder: Folder, classes: tuple[str, ...] | None = None, superclasses: bool = False
) -> Listing:
    """Images of folder/<class>/**. `classes` are those of the training split; without it this is that split.

    superclasses: where every folder in `folder` holds folders, those are the classes.
    """
    folders = class_folders(folder, superclasses)
    files = {
        name: [f"{path}/{file}" for file in image_names(folder / path)]
        for name, path in folders.items()
    }
    return of_classes(folder, files, classes)


def of_classes(
    folder: Folder, files: dict[str, list[str]], classes: tuple[str, ...] | None = None
) -> Listing:
    """Images of folder, the files of each class given. `classes` are those of the training split; None: this is it."""
    if not any(files.values()):
        raise ValueError(_why_no_images(folder, list(files)))
    empty: tuple[str, ...] = ()
    if classes is None:
        classes = tuple(files)
        empty = tuple(name for name, paths in files.items() if not paths)
    number = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    unknown = [name for name, paths in files.items() if paths and name not in number]
    if unknown:
        noun = "is a class" if len(unknown) == 1 else "are classes"
        line = f"{some(unknown)} of {folder} {noun} that the training split does not have"
        remedy = "call the folders as there, or leave them out"
        classes = with_unknown(classes, unknown, line, remedy)
        number = {name: label for label, name in enumerate(classes)}
    for name, paths in files.items():
        if name in number:
            names += paths
            labels += [number[name]] * len(paths)
    return Listing(folder, names, labels, classes, empty=empty)


def with_unknown(
    classes: tuple[str, ...], unknown: Sequence[str], line: str, remedy: str = ""
) -> tuple[str, ...]:
    """The classes with those that the training split has not. ValueError where these are not wanted."""
    if not _any_class:
        raise ValueError(f"{line}: {remedy}" if remedy else line)
    say_once(f"{line}: read all the same, for no label is needed")
    return (*classes, *unknown)


def _why_no_images(folder: Folder, folders: list[str]) -> str:
    """What to do about a folder that gave no image."""
    if isinstance(folder, Path) and any(folder.glob("*.lmdb")):
        return f"{folder} holds .lmdb files: they are --dataset lmdb"
    if not folders:
        return f"{folder} has no class folders; images without classes are --dataset images"
    return f"the class folders of {folder} hold no images"


def check_no_empty_class(listing: Listing) -> None:
    """ValueError when classes of the training split have no image."""
    if not listing.empty:
        return
    noun = "class folder" if len(listing.empty) == 1 else "class folders"
    verb = "holds" if len(listing.empty) == 1 else "hold"
    raise ValueError(
        f"{noun} {some(listing.empty)} of {listing.root} {verb} no images ({len(listing.empty)} of "
        f"{len(listing.classes)} are empty): put images there, or remove them"
    )


def some(names: Sequence[str], most: int = 12) -> str:
    """The first of many names, and how many others there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def by_list(
    root: Folder, names: list[str], labels: list[int], classes: tuple[str, ...], source: str
) -> Listing:
    """Images that a file of the data set, `source`, names. FileNotFoundError when some of them are not there."""
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{source} names {len(missing)} images of {len(names)} that are not in {root}, e.g. {missing[0]}: "
            "fetch or unpack them again"
        )
    return Listing(root, names, labels, classes)


def split_by_class(root: Folder, split: str, superclasses: bool = False) -> Listing:
    """Images of root/train/<class>/** or of the evaluation folder beside it, with the training split's classes."""
    if split == "train":
        return by_class(root / "train", None, superclasses)
    folder = evaluation_folder(root)
    if folder is None:
        folders = f"{', '.join(EVALUATION[:-1])} or {EVALUATION[-1]}"
        raise FileNotFoundError(f"{root} has no {folders} folder with classes")
    classes = tuple(class_folders(root / "train", superclasses))
    return by_class(folder, classes or None, superclasses)


def evaluation_folder(root: Folder) -> Folder | None:
    """The first of test, val, valid, validation that has class folders."""
    for name in EVALUATION:
        if class_names(root / name):
            return root / name
    return None


def above_train(root: Folder) -> Folder:
    """The data set's root when its `train` folder was given, as the published pretraining commands do."""
    is_train = root.name == "train" and not (root / "train").is_dir()
    return root.parent if is_train else root


def image_set(
    listing: Listing,
    options: LoadOptions,
    constants: Constants | None = None,
    *,
    trains: bool = True,
) -> ImageSet:
    """Decode a listing through the cache, or stream it: then worker processes decode what is asked for, each time.

    `constants` are mean and std; without them the pixels' own are used. trains: whether networks learn these images; of
    others, which are measured on, unreadable ones have no substitute. ValueError when the listing is empty, and of a
    split that trains when a class has no image, or none that can be read.
    """
    check_no_empty_class(listing)
    if not listing.names:
        raise ValueError(f"{listing.root} holds no images")
    most_pixels()  # what is wrong with it is said here, and not of each image
    labels = None
    if listing.labels is not None:
        labels = torch.tensor(listing.labels)
    stream = options.stream
    if stream is None:
        stream = _is_too_large(listing, options)
    if stream:
        streamed = _streamed(listing, labels, options, trains)
        mean, std = constants or statistics(streamed)
        # Nothing of a tensor but its shape, type and indexing is used of a set's pixels.
        pixels = cast(torch.Tensor, streamed)
        return ImageSet(pixels, labels, listing.classes, mean, std, streamed.conversion)
    cached = load_cached(
        listing.root, listing.names, options.source_size, listing.part, options.conversion
    )
    if labels is not None:
        if trains:
            _check_readable(listing, labels, cached.kept)
        else:
            say_lost_classes(labels, labels[cached.kept], listing.classes)
        labels = labels[cached.kept]
    mean, std = constants or (cached.mean, cached.std)
    images = ImageSet(cached.pixels, labels, listing.classes, mean, std, cached.conversion)
    return replace(images, file=cached.file, checksums=cached.checksums)


def _check_readable(listing: Listing, labels: torch.Tensor, kept: torch.Tensor) -> None:
    """ValueError when a class has images and none of them is readable, as when they are streamed."""
    lost = set(labels.tolist()) - set(labels[kept].tolist())
    if lost:
        index = labels.tolist().index(min(lost))
        raise ValueError(f"{listing.root}: {unreadable_class(listing.names[index])}")


def _streamed(
    listing: Listing, labels: torch.Tensor | None, options: LoadOptions, trains: bool
) -> Streamed:
    """The images, decoded when they are asked for."""
    names, image_places = _compact_places(listing)
    sample = _look.headers(image_places)
    most = _pair(options.source_size)
    title = _notes.title(listing.root, listing.part)
    _look.check_channels(sample, options.conversion, title)
    look = _look.settle(image_places, sample, options.conversion, most)
    beyond, kinds = _look.beyond_centre(sample, most), _look.kinds_in(sample)
    lines = _notes.conversion_lines(look.conversion, look.measured, beyond, kinds, most)
    _notes.say(title, lines)
    size = common_size(sample, most) or most
    conversion = look.conversion
    return Streamed(
        image_places, names, labels, size, options.workers, conversion, title, substitutes=trains
    )


def _compact_places(listing: Listing) -> tuple[Names, Sequence[Place]]:
    """The names of a listing's images and what the decoder opens for each, in little memory."""
    names, root = Names(listing.names), listing.root.resolve()
    if isinstance(root, Path):
        return names, Files(root, names)
    with places(root, listing.names, None) as image_places:
        return names, compact(image_places)


def _is_too_large(listing: Listing, options: LoadOptions) -> bool:
    """Whether the pixels would fill the memory; if so it is said."""
    channels, (height, width) = options.conversion.channels or 3, _pair(options.source_size)
    size = len(listing.names) * channels * height * width
    memory = _memory()
    if memory is None or size <= RESIDENT * memory:
        return False
    sides = str(height) if height == width else f"{height} x {width}"
    size_in_gb, memory_in_gb = f"{size / 1e9:.0f} GB", f"{memory / 1e9:.0f} GB"
    say_once(
        f"{listing.root}: {len(listing.names)} images of {sides} px would take {size_in_gb}, "
        f"this machine has {memory_in_gb} of memory: "
        "they are streamed from their files (--stream false stores them)"
    )
    return True


def _memory() -> int | None:
    """This machine's memory in bytes; None where Python does not say, as on Windows without the package psutil."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import psutil
    except ImportError:
        return None
    return psutil.virtual_memory().total
