"""Streamed: images that are decoded when they are asked for, and index like a uint8 tensor (N, C, H, W).

Pixels are those of the cache: the same decoder, the same side. An image that cannot be read is named once, and where
networks learn the next one of its class in the listing's order that can be takes its place; so labels stay right, and
the pixels of an index depend on the files only, not on workers, ranks or what was read before. Whoever measures leaves
out those that are `unreadable`, as the cache does.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from . import _notes
from ._bytes import Place, file_of, size_and_time
from ._console import say_once, say_once_of
from ._convert import AS_PUBLISHED, Conversion, Form, NoRange
from ._workers import Decoders, processors

SAMPLE = 1024  # images from which mean and deviation of a streamed set are measured
PART = 256  # of which so many are held at a time
SIZES, THREADS = 1024, 16  # files whose sizes a thread looks at, and threads
PART_OF_LABELS = 1 << 16  # that are looked at once for an image's substitute, which is seldom far
NAMED = 10  # unreadable images that are named one by one


class Streamed:
    """The images at `places`, brought to `size`: a side in px, or height and width.

    Without a number of workers one per processor and rank decodes.
    """

    dtype = torch.uint8
    device = torch.device("cpu")
    ndim = 4

    def __init__(
        self,
        places: Sequence[Place],
        names: Sequence[str],
        labels: Tensor | None,
        size: int | tuple[int, int],
        workers: int | None,
        conversion: Conversion = AS_PUBLISHED,
        title: str = "images",
        *,
        substitutes: bool = True,
    ):
        """title: what people call them. substitutes: whether an unreadable image is replaced; else it is black."""
        self._places = places
        self._names = names
        self._labels = labels
        form = Form(_pair(size), False, conversion)
        self.conversion, self._title = conversion, title
        self.shape = torch.Size((len(places), *form.shape))
        self.nbytes = self.shape.numel()
        self._said: set[str] = set()
        self.unreadable: set[int] = set()
        """The numbers of those images that were asked for by now and cannot be read."""
        self._replaces = substitutes
        self._standing_in: Tensor | None = None  # a mask (N,), or all
        self._substitutes: dict[int, int] = {}  # of an unreadable image: the next of its class
        self._checksums: np.ndarray | None = None  # uint32 (N,), once they are compared
        self._new_numbers: list[
            np.ndarray
        ] = []  # of images that were first read since they were asked for
        self._looked_at: tuple[tuple[int, int], Tensor] | None = None  # by `_look`
        share = processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self._decoders = Decoders(workers or max(1, share), form)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, whose decoders are their own."""
        decoders = self._decoders
        return {**self.__dict__, "_decoders": (decoders.count, decoders.form)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._decoders = Decoders(*state["_decoders"])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Tensor:
        """uint8 (..., C, H, W) of what a tensor of N rows would give: an int, a slice, a tensor of indices or bools."""
        # A repeated image is decoded once.
        numbers, rows = self._numbers(index).unique(return_inverse=True)
        pixels = torch.from_numpy(self._decode(numbers.tolist()))
        return pixels[rows]

    def _numbers(self, index: Any) -> Tensor:
        """What an index means, as of a tensor of N rows. IndexError where there is no such image."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or not index.numel():
            return torch.arange(len(self))[index]
        if int(index.min()) < -len(self) or int(index.max()) >= len(self):
            raise IndexError(f"there are {len(self)} images")
        return index % len(self)

    def name_of(self, number: int) -> str:
        """What the file of an image is called."""
        return self._names[number]

    def file_sizes(self, start: int, stop: int) -> Tensor:
        """Bytes of the files of the images from start to before stop (n,), -1 of one that cannot be looked at."""
        return self._look(start, stop)[:, 0]

    def file_times(self, start: int, stop: int) -> Tensor:
        """When these files were last written, in whole seconds (n,): some ways to copy files keep no more.

        -1 of one that cannot be looked at. An archive's members have its time.
        """
        times = self._look(start, stop)[:, 1]
        self._looked_at = None
        return times

    def _look(self, start: int, stop: int) -> Tensor:
        """Sizes and times (n, 2). Kept until the times are asked for: a run's start wants both.

        Threads look at several at a time: a network file system takes its time to answer.
        """
        if self._looked_at is None or self._looked_at[0] != (start, stop):
            parts = range(start, stop, SIZES)
            with ThreadPoolExecutor(THREADS, "look") as threads:
                looks = threads.map(
                    lambda first: self._part(first, min(first + SIZES, stop)), parts
                )
                rows = torch.cat([torch.empty((0, 2), dtype=torch.int64), *looks])
            self._looked_at = (start, stop), rows
        return self._looked_at[1]

    def _part(self, start: int, stop: int) -> Tensor:
        rows: list[tuple[int, int]] = []
        archives: dict[str, int] = {}
        for number in range(start, stop):
            try:
                rows.append(size_and_time(self._places[number], archives))
            except OSError:
                rows.append((-1, -1))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)

    def stamp(self, sizes: Tensor) -> str:
        """Changes when the names of the files do, or their sizes in bytes, which are those of file_sizes(0, N)."""
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(self), SIZES):
            part = sizes[start : start + SIZES].tolist()
            for number, size in enumerate(part, start):
                digest.update(b"%s\0%d\n" % (os.fsencode(self._names[number]), size))
        return digest.hexdigest()

    def compare_with(self, checksums: np.ndarray) -> None:
        """Compare whatever is read from now on with these, uint32 (N,), as `Rows.checksums`: 0 where none is known yet.

        Where an image turns out to be another than it was, reading is a ValueError.
        """
        self._checksums = checksums

    def new_checksums(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and checksums uint32 (n,) of images that were first read since the last call."""
        assert self._checksums is not None
        new, self._new_numbers = self._new_numbers, []
        numbers = np.unique(np.concatenate([np.empty(0, np.uint32), *new]))
        return numbers, self._checksums[numbers]

    def _compare(self, numbers: list[int], read: list[int]) -> None:
        if self._checksums is None:
            return
        of, now = np.array(numbers, np.uint32), np.array(read, np.uint32)
        before = self._checksums[of]
        changed = of[(before != 0) & (now != 0) & (before != now)]
        if len(changed):
            raise ValueError(changed_image(self._names[int(changed[0])]))
        first = (before == 0) & (now != 0)
        self._checksums[of[first]] = now[first]
        if first.any():
            self._new_numbers.append(of[first])

    def _decode(self, numbers: list[int]) -> np.ndarray:
        """uint8 (len(numbers), C, H, W). Images that turn out unreadable are replaced by their substitutes, if any."""
        numbers = [self._readable(number) for number in numbers]
        places = [self._places[number] for number in numbers]
        try:
            pixels, unreadable, notes, checksums = self._decoders.decode(places)
        except NoRange:
            raise ValueError(
                f"some of these {len(self)} images have more than 8 bits, and those of a sample had not: give "
                "--value_range LOW HIGH, the values that are to be black and white"
            ) from None
        self._compare(numbers, checksums)
        self._say(notes)
        for row, reason in unreadable:
            self._say_unreadable(numbers[row], reason)
        if unreadable and self._replaces:
            rows = [row for row, _ in unreadable]
            pixels[rows] = self._decode([numbers[row] for row in rows])
        return pixels

    def _say(self, notes: Mapping[str, float]) -> None:
        """Say of each thing that is dropped or replaced when it is first met."""
        new = {note: count for note, count in notes.items() if note not in self._said}
        self._said.update(new)
        for line in _notes.note_lines(new):
            say_once_of("streamed", f"{self._title}: of those streamed by now {line}")

    def _readable(self, number: int) -> int:
        """The image itself, or the one that stands in for it. ValueError when its class has none left."""
        first, tried = number, set()
        while number in self._substitutes:
            tried.add(number)
            number = self._substitutes[number]
            if number in tried:
                raise ValueError(unreadable_class(self._names[first]))
        return number

    def take_substitutes_from(self, numbers: Tensor) -> None:
        """Let these images (n,) alone stand in for unreadable ones: those that train, where others are held out."""
        self._standing_in = torch.zeros(len(self), dtype=torch.bool)
        self._standing_in[numbers] = True

    def _say_unreadable(self, number: int, reason: str) -> None:
        """Say once of an image that it cannot be read, and let the next of its class stand in for it if one is to."""
        if number in self.unreadable:
            return
        self.unreadable.add(number)
        fate = "left out"
        if self._replaces:
            substitute = self._next(number)
            self._substitutes[number] = substitute
            fate = f"{self._names[substitute]} is taken"
        count = len(self.unreadable)
        if count > NAMED:
            return
        line = f"unreadable image {self._names[number]} ({reason}): {fate}"
        if count == NAMED:
            line += "; no more are named"
        say_once_of(file_of(self._places[number]), line)

    def _next(self, number: int) -> int:
        """The next image of the same class; after the last comes the first."""
        if self._labels is None:
            return (number + 1) % len(self)
        label = self._labels[number]
        for first, last in ((number + 1, len(self)), (0, number + 1)):
            for start in range(first, last, PART_OF_LABELS):
                part = slice(start, min(start + PART_OF_LABELS, last))
                same = self._labels[part] == label
                if self._standing_in is not None:
                    same &= self._standing_in[part]
                if same.any():
                    return start + int(same.nonzero()[0])
        return number


def readable(pixels: Any, indices: Tensor) -> Tensor:
    """Of indices (n,) that were asked of a set's pixels a mask (n,) of those whose files can be read."""
    unreadable = torch.tensor(sorted(getattr(pixels, "unreadable", ())), dtype=torch.int64)
    return ~torch.isin(indices, unreadable)


def say_lost_classes(there: Tensor, kept: Tensor, classes: tuple[str, ...]) -> None:
    """A line about classes of which images are `there`, and none that can be read; both are labels, (N,) and (n,)."""
    lost = sorted(set(there.unique().tolist()) - set(kept.unique().tolist()))
    if lost:
        names = ", ".join(classes[label] for label in lost[:NAMED]) + (
            ", ..." if lost[NAMED:] else ""
        )
        noun = "class" if len(lost) == 1 else "classes"
        say_once(
            f"warning: no image of {noun} {names} can be read where accuracy is measured: left out of it"
        )


def changed_image(name: str) -> str:
    """What to do about an image that is another than it was."""
    return (
        f"image {name} has changed since this run first read it: its checksum is another. Put back the earlier "
        "file and give the same command again, or begin again in another --output_dir"
    )


def unreadable_class(name: str) -> str:
    """What to do about a class of which an image has this name: a network cannot learn it, streamed or not."""
    return f"none of the images of the class of {name} is readable: mend them or remove the class"


def statistics(pixels: Streamed) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, in units of 0..1, of at most SAMPLE images spread over the set.

    ValueError where none of these can be read.
    """
    count = min(SAMPLE, len(pixels))
    chosen = torch.arange(count) * len(pixels) // count
    channels = pixels.shape[1]
    sums = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for part in chosen.split(PART):
        values = pixels[part].long()[readable(pixels, part)]
        sums += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = int(readable(pixels, chosen).sum())
    if not count:
        raise ValueError(f"none of {len(chosen)} images, e.g. {pixels.name_of(0)}, can be read")
    values_per_channel = count * pixels.shape[2] * pixels.shape[3]
    mean = sums / values_per_channel / 255
    variance = squares / values_per_channel / 255**2 - mean**2
    std = variance.clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
