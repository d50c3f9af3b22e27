"""Rows that say which images there are, which label each has and which split it is in, as listings of both splits."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ._console import say_once
from ._folders import Listing, NoTrainingImages, image_set, with_unknown
from ._images import ImageSet, LoadOptions, check_split, like
from ._places import Root
from ._split_names import TEST, TRAIN, VALIDATION
from .image_folder import WITH_VALIDATION, hold_out

SEPARATORS = "|;,"  # between several labels in a cell
TEST_NAMES = ("test", "val")  # of which the first that is there is the test split
SPLIT_NAMES = {"train": (*TRAIN, "trn"), "test": (*TEST, "tst"), "val": VALIDATION}


@dataclass(frozen=True)
class Rows:
    """The rows of a table or of anything like it."""

    source: str
    """What says so, for messages."""
    names: list[str]
    """Of the images."""
    labels: list[str] | None
    """One for each name, empty where the row has none; None when there are no labels at all."""
    splits: list[str] | None = None
    """One for each name, in anybody's words; None when the rows are of one split."""
    unlabelled: str = ""
    """Why there are no labels, where that can be said."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"{self.source} names no images")

    def part(self, indices: Sequence[int]) -> "Rows":
        """Some of the rows, of one split."""
        names = [self.names[index] for index in indices]
        labels = None
        if self.labels is not None:
            labels = [self.labels[index] for index in indices]
        return Rows(self.source, names, labels, unlabelled=self.unlabelled)


def split_name(word: str) -> str | None:
    """train, test or val, where the word is one of the usual ones for it."""
    plain = word.strip().lower()
    for name, words in SPLIT_NAMES.items():
        if plain in words:
            return name
    return None


def split_of_file(file: Path, root: Path) -> str | None:
    """The split that a file's name says (train-0001.tar), else that of the folders up to the root; None of neither."""
    stem = re.split(r"[\W_]+", file.stem)[0]
    folders = file.relative_to(root).parts[:-1] if root.is_dir() else ()
    for word in (stem, *reversed(folders)):
        name = split_name(word)
        if name:
            return name
    return None


def text(value: Any) -> str:
    """A label as a class name: empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple, dict)):
        raise ValueError(f"{value!r:.60} is not one label: an image has one class here")
    # Numbers with gaps are fractions to the programs that write tables
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


# Listings


class NoLabels(ValueError):
    """A test split is asked for of images that nobody has labelled."""


def split_of(listings: dict[str, Listing], split: str) -> Listing:
    """The listing of a split. ValueError for one that is not there, or that nobody has labelled."""
    check_split(split, WITH_VALIDATION)
    root = listings["train"].root
    if split == "val" and split not in listings:
        raise ValueError(f"{root} has no validation images beside test images")
    if split not in listings:
        why = listings["train"].unlabelled
        raise NoLabels(f"{root}: its images have no labels, and so there is no test split{why}")
    return listings[split]


def images_of(listings: dict[str, Listing], split: str, options: LoadOptions) -> ImageSet:
    """The images of a split; mean and std are those of the training images. Errors are those of split_of."""
    wanted = split_of(listings, split)
    train = image_set(listings["train"], options)
    if split == "train":
        return train
    constants = train.mean, train.std
    return image_set(wanted, like(options, train), constants, trains=False)


class Parts(NamedTuple):
    """All rows of a source."""

    root: Root
    """Of their names."""
    rows: dict[str, Rows]
    """By split: train, test, val, or some of them."""
    classes: tuple[str, ...] | None = None
    """Their names in label order, where the source says them; otherwise those of the training rows."""


def listings_of(parts: Parts) -> dict[str, Listing]:
    """Listings "train", "test" and, with both, "val" of the rows by split (train, and test, val, both or neither).

    Without a test split a tenth of each class of the training images is held out, as of class folders. Without labels
    there is no "test". NoTrainingImages where there are none, ValueError for labels that cannot be classes.
    """
    root, splits, classes = parts
    if "train" not in splits:
        have = " and ".join(splits)
        raise NoTrainingImages(f"{root} has {have} images and no training images")
    train = without_repeats(splits["train"])
    if train.labels is None or not any(train.labels):
        why = train.unlabelled
        return {"train": Listing(root, train.names, None, (), "train", unlabelled=why)}
    train = labelled(train)
    say_several_labels(train)
    assert train.labels is not None
    classes = classes or class_order(train)
    whole = listing_of(root, train, classes, "")
    usable = _usable(splits)
    if not usable:
        return hold_out(whole)
    listings = {"train": replace(whole, part="train")}
    for split, name in zip(TEST_NAMES, usable, strict=False):
        rows = labelled(without_repeats(splits[name]))
        _say_overlap(train, rows)
        listings[split] = listing_of(root, rows, classes, split)
    return listings


def unsplit_of(parts: Parts) -> Listing | None:
    """The labelled images of the only split, or those of test, else val, where there is no training split.

    None where labelled training and test images are both there, and without labels.
    """
    root, rows, classes = parts
    there = [name for name in ("train", *TEST_NAMES) if name in rows and _has_labels(rows[name])]
    if not there or (there[0] == "train" and len(there) > 1):
        return None
    whole = labelled(without_repeats(rows[there[0]]))
    say_several_labels(whole)
    classes = classes or class_order(whole)
    return listing_of(root, whole, classes, "all")


def _has_labels(rows: Rows) -> bool:
    return rows.labels is not None and any(rows.labels)


def _usable(parts: dict[str, Rows]) -> list[str]:
    """Which of the parts beside the training images have labels: validation images alone are the test split."""
    usable = []
    for name in TEST_NAMES:
        rows = parts.get(name)
        if rows is not None and _has_labels(rows):
            usable.append(name)
        elif rows is not None:
            say_once(
                f"{rows.source}: its {len(rows.names)} {name} images have no labels, and are not used"
            )
    return usable


def by_split(rows: Rows) -> dict[str, Rows]:
    """The rows of train, test and val. ValueError for a word that is none of their names."""
    if rows.splits is None:
        return {"train": rows}
    indices: dict[str, list[int]] = {}
    for index, word in enumerate(rows.splits):
        name = split_name(word)
        if name is None:
            known = ", ".join(SPLIT_NAMES)
            raise ValueError(
                f"{rows.source} puts {rows.names[index]} into a split {word!r}, which is none of {known}"
            )
        indices.setdefault(name, []).append(index)
    return {name: rows.part(chosen) for name, chosen in indices.items()}


def by_first_folder(rows: Rows) -> Rows:
    """The rows with the splits that the first folders of their names say, where all of them are such."""
    words = [name.split("/")[0] if "/" in name else "" for name in rows.names]
    names = {split_name(word) for word in set(words)}
    if rows.splits is not None or None in names or not {"train"} < names:
        return rows
    say_once(f"{rows.source}: the first folders of its images say which split they are in")
    return replace(rows, splits=words)


# What rows may have wrong


def keep(rows: Rows, kept: Callable[[int], bool], why: str) -> Rows:
    """The rows for which `kept` holds of their index; how many others there are, and one of them, is said."""
    chosen = [index for index in range(len(rows.names)) if kept(index)]
    left_out = len(rows.names) - len(chosen)
    if not left_out:
        return rows
    example = next(index for index in range(len(rows.names)) if not kept(index))
    line = f"{rows.source}: left out {left_out} of {len(rows.names)} rows {why}, e.g. {rows.names[example]}"
    if not chosen:
        raise ValueError(line)
    say_once(line)
    return replace(
        rows.part(chosen), splits=rows.splits and [rows.splits[index] for index in chosen]
    )


def without_repeats(rows: Rows) -> Rows:
    """Each image once. ValueError where rows give one image two labels."""
    first: dict[str, int] = {}
    for index, name in enumerate(rows.names):
        before = first.setdefault(name, index)
        if rows.labels is None or not rows.labels[index]:
            continue
        if not rows.labels[before]:
            first[name] = index  # a row that says the label goes before one that does not
        elif rows.labels[before] != rows.labels[index]:
            labels = f"{rows.labels[before]!r} and {rows.labels[index]!r}"
            raise ValueError(
                f"{rows.source} gives {name} two labels, {labels}: remove one of its rows"
            )
    return keep(rows, lambda index: first[rows.names[index]] == index, "that name an image again")


def labelled(rows: Rows) -> Rows:
    """The rows that have a label."""
    labels = rows.labels
    assert labels is not None
    return keep(rows, lambda index: bool(labels[index]), "without a label")


def say_several_labels(rows: Rows) -> None:
    """A warning where cells seem to hold several labels: each such cell is a class of its own."""
    assert rows.labels is not None
    counts = Counter(rows.labels)
    several = [label for label in counts if is_several(label, counts)]
    if several:
        images = sum(counts[label] for label in several)
        say_once(
            f"warning: {rows.source}: {images} of {len(rows.labels)} rows have labels like {several[0]!r}, several at "
            "once: an image has one class here, so each combination is a class of its own; keep one label a row"
        )


def is_several(label: str, labels: Collection[str]) -> bool:
    """Whether a label is a list of several, by | or ; or by a comma between words that are labels, too."""
    for separator in SEPARATORS:
        parts = [part.strip() for part in label.strip("[](){}").split(separator)]
        if len(parts) > 1 and all(parts):
            return separator != "," or any(part in labels for part in parts)
    return False


def class_order(rows: Rows) -> tuple[str, ...]:
    """The classes: whole numbers in their order, names in alphabetical order. ValueError for fractions."""
    assert rows.labels is not None
    names = set(rows.labels)
    numbers = {name: _number(name) for name in names}
    if None in numbers.values():
        return tuple(sorted(names))
    fractions = [name for name, number in numbers.items() if number != int(number or 0)]
    if fractions:
        example = min(fractions)
        raise ValueError(
            f"{rows.source} has labels like {example}, which are fractions and no classes: another --label_column"
        )
    return tuple(sorted(names, key=lambda name: (numbers[name], name)))


def _number(name: str) -> float | None:
    """The finite number that a label is; None where it is none."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def listing_of(root: Root, rows: Rows, classes: tuple[str, ...], part: str) -> Listing:
    """The images of all rows. ValueError for a class that is not one of these (see any_class)."""
    assert rows.labels is not None
    unknown = Counter(label for label in rows.labels if label not in set(classes))
    if unknown:
        label, count = min(unknown.items())
        line = f"{rows.source}: {label!r}, of {count} test images, is a class that the training split does not have"
        classes = with_unknown(classes, sorted(unknown), line)
    number = {name: label for label, name in enumerate(classes)}
    return Listing(root, rows.names, [number[label] for label in rows.labels], classes, part)


def _say_overlap(train: Rows, test: Rows) -> None:
    """A warning where test images are training images."""
    both = set(train.names) & set(test.names)
    if both:
        say_once(
            f"warning: {len(both)} of {len(test.names)} test images of {test.source} are training images too, "
            f"e.g. {min(both, key=os.fsencode)}: accuracies will be too high"
        )
