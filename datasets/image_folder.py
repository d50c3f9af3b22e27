"""Images in class folders: root/train/<class>/ and root/{test,val,valid}/<class>/, or just root/<class>/."""

import functools
import os
import sys
import zlib
from dataclasses import replace
from pathlib import Path

from ._archive import Inside
from ._folders import (
    EVALUATION,
    Listing,
    above_train,
    by_class,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import ImageSet, check_split
from ._survey import survey as survey


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
    """Mean and std are measured on the training pixels. Without a test folder a tenth of each class is the test split.

    That tenth depends on the file names only. FileNotFoundError or ValueError when there is nothing to read.
    """
    check_split(split)
    listings = _listings(existing_folder(root))
    train = image_set(listings["train"], source_size, None, stream, workers)
    if split == "train":
        return train
    return image_set(listings["test"], source_size, (train.mean, train.std), stream, workers)


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    return _listings(existing_folder(root))[split]


def recognise(root: Path | Inside) -> str | None:
    return "image_folder" if class_names(root) else None


def _listings(root: Path | Inside) -> dict[str, Listing]:
    folder = above_train(root)
    if class_names(folder / "train") and evaluation_folder(folder):
        return {split: split_by_class(folder, split) for split in ("train", "test")}
    folder = root / "train" if class_names(root / "train") else root
    if folder == root and (name := next((n for n in EVALUATION if class_names(root / n)), None)):
        raise FileNotFoundError(f"{root} has {name}/ with class folders but no train/ beside it")
    return _tenth(by_class(folder))


def _tenth(whole: Listing) -> dict[str, Listing]:
    """Split each class by a hash of its file names: a tenth, and at least one of two images, is the test split."""
    test = {index for label in range(len(whole.classes)) for index in _held_out(whole, label)}
    if not test:
        raise ValueError(
            f"{whole.root} has one image per class; a test split needs at least two of some class"
        )
    _say(
        f"{whole.root} has no test folder: {len(test)} of {len(whole.names)} images are held out as the test split"
    )
    return {
        split: replace(
            whole,
            names=[name for i, name in enumerate(whole.names) if (i in test) == (split == "test")],
            labels=[
                label for i, label in enumerate(whole.labels) if (i in test) == (split == "test")
            ],
            part=split,
        )
        for split in ("train", "test")
    }


def _held_out(whole: Listing, label: int) -> list[int]:
    of_class = [index for index, other in enumerate(whole.labels) if other == label]
    of_class.sort(
        key=lambda index: (zlib.crc32(os.fsencode(whole.names[index])), whole.names[index])
    )
    return of_class[: max(len(of_class) // 10, int(len(of_class) > 1))]


@functools.cache
def _say(line: str) -> None:
    """Once per process: both splits would say it."""
    print(line, file=sys.stderr)
