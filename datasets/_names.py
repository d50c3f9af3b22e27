"""Names and places of many images, held as a few arrays: a str or a list for each would take 80 to 300 bytes an image.

They are sent to other processes as they are.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from ._bytes import Place

PART = 1 << 16  # names that are encoded at once


class Names(Sequence[str]):
    """Strings, as the operating system encodes file names, side by side."""

    def __init__(self, names: Iterable[str]):
        content, lengths, rest = bytearray(), [np.zeros(1, np.int64)], iter(names)
        while part := [os.fsencode(name) for name in islice(rest, PART)]:
            content += b"".join(part)
            lengths.append(np.fromiter(map(len, part), np.int64, len(part)))
        ends = np.concatenate(lengths).cumsum()
        # The numbers that are needed for so many bytes
        self._ends = ends.astype(np.uint32 if len(content) < 1 << 32 else np.int64)
        self._content = content

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):  # one at a time
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(bytes(self._content[self._ends[index] : self._ends[index + 1]]))


class Files(Sequence[Place]):
    """Paths of files below a folder; each is put together when it is asked for."""

    def __init__(self, root: str | os.PathLike, names: Sequence[str]):
        self._root, self._names = str(root), names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):  # one at a time
        return os.path.join(self._root, self._names[index])


class Spans(Sequence[Place]):
    """Places inside files, each of as many numbers."""

    def __init__(self, places: Sequence[list]):
        files: dict[str, int] = {}
        rows = (files.setdefault(place[0], len(files)) for place in places)
        self._file = np.fromiter(rows, np.int32, len(places))
        self._files = list(files)
        width = len(places[0]) - 1
        numbers = (number for place in places for number in place[1:])
        self._numbers = np.fromiter(numbers, np.int64, len(places) * width).reshape(-1, width)

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index):  # one at a time
        return [self._files[self._file[index]], *self._numbers[index].tolist()]


def compact(places: Sequence[Place]) -> Sequence[Place]:
    """The same places, in arrays where all are inside files and of one kind."""
    if not len(places) or any(isinstance(place, str) for place in places):
        return places
    if len({len(place) for place in places}) > 1:
        return places
    return Spans(places)  # type: ignore[arg-type]  # no str among them
