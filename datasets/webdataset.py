"""WebDataset shards: tar files in which the files of a sample follow each other and share a name up to its first dot.

0001.jpg beside 0001.cls (a number or a name) or 0001.json (with a label in it); without either there are no labels.
Shards are read where they lie, by an index that is made of their headers.
"""

import functools
import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._archive import COMPRESSED, DAMAGE, TAR, ArchiveFolder, Folder, tar_members
from ._console import say_once
from ._data_set import DataSet
from ._endings import is_image
from ._folders import image_names
from ._lmdb import Records
from ._places import Several
from ._reader import Reader
from ._rows import (
    Parts,
    Rows,
    by_split,
    split_of_file,
    text,
)
from ._table import LABELS, Columns, first_of

CLASS, JSON = "cls", "json"  # endings of the files of labels
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SAMPLED = 200  # samples of the first shard that decide what it is
Span = tuple[int, int]  # offset and length


@dataclass(frozen=True)
class Sample:
    """The files that share a name in a shard."""

    name: str
    files: dict[str, Span]
    """By what follows the first dot, in lower case."""

    def image(self, wanted: str | None) -> str | None:
        """The ending of its image: the wanted one, else the first."""
        if wanted is not None:
            return wanted if wanted in self.files else None
        return next(iter(self.images()), None)

    def images(self) -> list[str]:
        """The endings of all its images."""
        return [ending for ending in self.files if is_image(f".{ending}")]


def recognise(root: Folder, **columns: str) -> str | None:
    """By a pattern of tar files, by several in a folder, or by one in which images have files of labels beside them."""
    place = root.file if isinstance(root, ArchiveFolder) else root
    try:
        _, shards = _shards(place)
        samples = _samples_of(shards[0])[:SAMPLED]
    except (ValueError, FileNotFoundError):
        return None
    if not any(sample.image(columns.get("image_column")) for sample in samples):
        return None
    if place.is_dir() and image_names(place):  # images with an archive among them
        return None
    labels = any(CLASS in sample.files or JSON in sample.files for sample in samples)
    # Archives of class folders are --dataset image_folder, and one without labels is --dataset images
    plain = not place.is_file() and not any("/" in sample.name for sample in samples)
    return "webdataset" if labels or plain or columns.get("label_column") else None


def _parts(root: str | Path, columns: Columns) -> Parts:
    """The rows of all splits.

    root: a shard, a folder of shards, or a pattern: shards/train-{000..017}.tar, shards/*.tar. The columns are endings
    of the files, or a key of the .json.
    """
    if columns.split is not None:
        raise ValueError("--split_column: the names of shards say which split they are")
    title = str(Path(root).expanduser())
    folder, shards = _shards(Path(title))
    images: dict[str, tuple[Records, str]] = {}
    labels: list[str] = []
    splits: list[str] = []
    without_image = 0
    for shard in shards:
        samples = _samples_of(shard)
        spans: dict[str, Span] = {}
        records = Records(shard, spans)
        inside = os.path.relpath(shard, folder)
        for sample, label in zip(samples, _labels(shard, samples, columns.label), strict=True):
            ending = sample.image(columns.image)
            if ending is None:
                without_image += 1
                continue
            name = f"{sample.name}.{ending}"
            spans[name] = sample.files[ending]
            images[f"{inside}/{name}"] = records, name
            labels.append(label)
            splits.append(split_of_file(shard, folder) or "train")
    _say_several(title, shards, columns)
    if without_image:
        say_once(f"{title}: left out {without_image} samples without an image")
    rows = Rows(title, list(images), labels if any(labels) else None, splits)
    if rows.labels is None:
        say_once(
            f"{title}: no labels (.cls, or .json with one; --label_column names another ending or key)"
        )
    return Parts(Several(title, dict(images)), by_split(rows))


def _say_several(title: str, shards: list[Path], columns: Columns) -> None:
    """A line where samples hold more images than are read."""
    several = [
        sample for shard in shards for sample in _samples_of(shard) if len(sample.images()) > 1
    ]
    if several and columns.image is None:
        names = ", ".join(several[0].images())
        say_once(
            f"{title}: {len(several)} samples hold several images ({names}): the first is read, "
            "--image_column names another"
        )


# Shards


def _shards(place: Path) -> tuple[Path, list[Path]]:
    """The folder of the shards, and these in sorted order. FileNotFoundError or ValueError when there are none."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if _is_shard(path))
        if not files:
            raise FileNotFoundError(f"there are no .tar files in {place}")
        return place, files
    if place.is_file():
        if place.name.lower().endswith(COMPRESSED):
            raise ValueError(f"{place} is compressed as a whole: unpack it to a .tar")
        if not _is_shard(place):
            raise ValueError(f"{place} is a file, and no .tar")
        return place.parent, [place]
    files = [Path(file) for pattern in _ranges(str(place)) for file in _matches(pattern)]
    return Path(os.path.commonpath([file.parent for file in files])), files


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith(TAR) and not path.name.startswith(".") and path.is_file()


def _ranges(pattern: str) -> Iterator[str]:
    """The pattern for each number of its {000..017}, if it has such."""
    found = RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranges(
            f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}"
        )


def _matches(pattern: str) -> list[str]:
    """The files that a pattern with * stands for, or the file itself. FileNotFoundError when there is none."""
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        raise FileNotFoundError(f"there is no {pattern}")
    return files


# Samples


def _samples_of(shard: Path) -> list[Sample]:
    """The samples of a shard. ValueError where it is damaged."""
    stat = os.stat(shard)
    return _samples(shard, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _samples(shard: Path, size: int, modified: int) -> list[Sample]:
    """Size and time are part of the key only."""
    samples: dict[str, Sample] = {}
    try:
        for name, (offset, length) in tar_members(shard):
            folder, _, file = name.rpartition("/")
            stem, _, ending = file.partition(".")
            if not stem or not ending:  # hidden, or without an ending
                continue
            key = f"{folder}/{stem}" if folder else stem
            sample = samples.setdefault(key, Sample(key, {}))
            sample.files[ending.lower()] = offset, length
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{shard} cannot be read as a tar file, it is damaged or none ({reason})"
        ) from None
    return list(samples.values())


def _labels(shard: Path, samples: list[Sample], wanted: str | None) -> list[str]:
    """The label of each sample, empty where it has none."""
    with open(shard, "rb") as opened:
        return [_label(opened, sample, wanted) for sample in samples]


def _label(opened: BinaryIO, sample: Sample, wanted: str | None) -> str:
    """What the file with the wanted ending holds, or the .json under the wanted key; else what the usual ones do."""
    if wanted in sample.files:
        return _content(opened, sample.files[wanted])
    if wanted is None and CLASS in sample.files:
        return _content(opened, sample.files[CLASS])
    if JSON not in sample.files:
        return ""
    try:
        value = json.loads(_content(opened, sample.files[JSON]))
        if isinstance(value, dict):
            key = wanted or first_of(LABELS, list(value))
            value = value.get(key)
        return text(value)
    except ValueError as error:
        raise ValueError(f"{opened.name}, {sample.name}.{JSON}: {error}") from None


def _content(opened: BinaryIO, span: Span) -> str:
    """The text of a file in the shard."""
    offset, length = span
    opened.seek(offset)
    return opened.read(length).decode("utf-8", "replace").strip()


READER = Reader(_parts)

DATASET = DataSet(
    title="your own images in WebDataset shards",
    layout="`.tar` files of `0001.jpg`, `0001.cls` (or `.json`), ...: a folder of them, or `train-{000..017}.tar`",
    load=READER.load,
    listing=READER.listing,
    recognise=recognise,
    validation=READER.validation,
    unsplit=READER.unsplit,
    own=True,
)
