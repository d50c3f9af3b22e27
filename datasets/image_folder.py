"""Images in class folders: root/train/<class>/ and root/{test,val,valid}/<class>/, or just root/<class>/."""

import functools
import os
import sys
import zlib
from dataclasses import replace
from pathlib import Path

from ._data_set import DataSet
from ._folders import (
    EVALUATION,
    Folder,
    Listing,
    above_train,
    by_class,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split, like


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """Mean and std are measured on the training pixels. Without a test folder a tenth of each class is the test split.

    That tenth depends on the file names only. FileNotFoundError or ValueError when there is nothing to read.
    """
    check_split(split)
    listings = _listings(existing_folder(root))
    train = image_set(listings["train"], options)
    if split == "train":
        return train
    return image_set(listings["test"], like(options, train), (train.mean, train.std))


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    return _listings(existing_folder(root))[split]


def recognise(root: Folder) -> str | None:
    """Any folder of folders."""
    return "image_folder" if class_names(root) else None


def _listings(root: Folder) -> dict[str, Listing]:
    """The images of both splits, by the layout that root has."""
    folder = above_train(root)
    if class_names(folder / "train") and evaluation_folder(folder):
        return {split: split_by_class(folder, split) for split in ("train", "test")}
    if class_names(root / "train"):
        return _hold_out(by_class(root / "train"))
    for name in EVALUATION:
        if class_names(root / name):
            raise FileNotFoundError(
                f"{root} has {name}/ with class folders but no train/ beside it"
            )
    return _hold_out(by_class(root))


def _hold_out(whole: Listing) -> dict[str, Listing]:
    """Split each class by a hash of its file names: a tenth, and at least one of two images, is the test split."""
    held_out = _held_out(whole)
    if not held_out:
        raise ValueError(
            f"{whole.root} has one image per class; a test split needs at least two of some class"
        )
    _print_once(
        f"{whole.root} has no test folder: {len(held_out)} of {len(whole.names)} images are held out as the test split"
    )
    train = [index for index in range(len(whole.names)) if index not in held_out]
    test = sorted(held_out)
    return {"train": _part(whole, train, "train"), "test": _part(whole, test, "test")}


def _held_out(whole: Listing) -> set[int]:
    """Indices of the images of the test split."""
    assert whole.labels is not None
    of_class: list[list[int]] = [[] for _ in whole.classes]
    for index, label in enumerate(whole.labels):
        of_class[label].append(index)
    held_out: set[int] = set()
    for indices in of_class:
        indices.sort(key=lambda index: _hash_and_name(whole.names[index]))
        count = len(indices) // 10
        if len(indices) > 1:
            count = max(count, 1)
        held_out.update(indices[:count])
    return held_out


def _hash_and_name(name: str) -> tuple[int, str]:
    """The order in which images of a class are held out."""
    return zlib.crc32(os.fsencode(name)), name


def _part(whole: Listing, indices: list[int], part: str) -> Listing:
    """Some of the images, as a split."""
    assert whole.labels is not None
    names = [whole.names[index] for index in indices]
    labels = [whole.labels[index] for index in indices]
    return replace(whole, names=names, labels=labels, part=part)


@functools.cache
def _print_once(line: str) -> None:
    """Once per process: both splits would say it."""
    print(line, file=sys.stderr)


DATASET = DataSet(
    title="your own images in class folders",
    layout="`{train,test}/<class>/` (or `val`, `valid`), or `<class>/`: then a tenth of each class is the test split",
    load=load,
    listing=listing,
    recognise=recognise,
    own=True,
)
