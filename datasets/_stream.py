"""Streamed: images that are decoded when they are asked for, and index like a uint8 tensor (N, C, H, W).

Pixels are those of the cache: the same decoder, the same side. An image that cannot be read is named once, and the
next one of its class in the listing's order that can be takes its place; so labels stay right, and the pixels of an
index depend on the files only, not on workers, ranks or what was read before.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from . import _notes
from ._bytes import Place, file_of, size_of
from ._console import say_once_of
from ._convert import AS_PUBLISHED, Conversion, Form, NoRange
from ._workers import Decoders, processors

SAMPLE = 1024  # images from which mean and deviation of a streamed set are measured
PART = 256  # of which so many are held at a time
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
        places: list[Place],
        names: list[str],
        labels: Tensor | None,
        size: int | tuple[int, int],
        workers: int | None,
        conversion: Conversion = AS_PUBLISHED,
        title: str = "images",
    ):
        """title: what people call them."""
        self._places = places
        self._names = names
        self._labels = labels
        form = Form(_pair(size), False, conversion)
        self.conversion, self._title = conversion, title
        self.shape = torch.Size((len(places), *form.shape))
        self.nbytes = self.shape.numel()
        self._numbers = torch.arange(len(places))
        self._said: set[str] = set()
        self._substitutes: dict[int, int] = {}  # of an unreadable image: the next of its class
        share = processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self._decoders = Decoders(workers or max(1, share), form)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Tensor:
        """uint8 (..., C, H, W) of what a tensor of N rows would give: an int, a slice, a tensor of indices or bools."""
        # A repeated image is decoded once.
        numbers, rows = self._numbers[index].unique(return_inverse=True)
        pixels = torch.from_numpy(self._decode(numbers.tolist()))
        return pixels[rows]

    def stamp(self) -> str:
        """Changes when the names of the files do, or their sizes in bytes; -1 of one that cannot be looked at."""
        digest = hashlib.blake2b(digest_size=8)
        for name, place in zip(self._names, self._places, strict=True):
            try:
                size = size_of(place)
            except OSError:
                size = -1
            digest.update(b"%s\0%d\n" % (os.fsencode(name), size))
        return digest.hexdigest()

    def _decode(self, numbers: list[int]) -> np.ndarray:
        """uint8 (len(numbers), C, H, W). Images that turn out unreadable are replaced by their substitutes."""
        numbers = [self._readable(number) for number in numbers]
        places = [self._places[number] for number in numbers]
        try:
            pixels, unreadable, notes = self._decoders.decode(places)
        except NoRange:
            raise ValueError(
                f"some of these {len(self)} images have more than 8 bits, and those of a sample had not: give "
                "--value_range LOW HIGH, the values that are to be black and white"
            ) from None
        self._say(notes)
        for row, reason in unreadable:
            self._substitute(numbers[row], reason)
        if unreadable:
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
        first = number
        while number in self._substitutes:
            number = self._substitutes[number]
            if number == first:
                raise ValueError(unreadable_class(self._names[first]))
        return number

    def _substitute(self, number: int, reason: str) -> None:
        """Let the next image of its class stand in for an unreadable one, and say so."""
        if number in self._substitutes:
            return
        substitute = self._next(number)
        self._substitutes[number] = substitute
        count = len(self._substitutes)
        if count > NAMED:
            return
        name, other = self._names[number], self._names[substitute]
        line = f"unreadable image {name} ({reason}): {other} is taken"
        if count == NAMED:
            line += "; no more are named"
        say_once_of(file_of(self._places[number]), line)

    def _next(self, number: int) -> int:
        """The next image of the same class; after the last comes the first."""
        if self._labels is None:
            return (number + 1) % len(self)
        same = (self._labels == self._labels[number]).nonzero()[:, 0]
        place = torch.searchsorted(same, number, right=True)
        return int(same[place % len(same)])


def unreadable_class(name: str) -> str:
    """What to do about a class of which an image has this name: a network cannot learn it, streamed or not."""
    return f"none of the images of the class of {name} is readable: mend them or remove the class"


def statistics(pixels: Streamed) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, in units of 0..1, of at most SAMPLE images spread over the set."""
    count = min(SAMPLE, len(pixels))
    chosen = torch.arange(count) * len(pixels) // count
    channels = pixels.shape[1]
    sums = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for part in chosen.split(PART):
        values = pixels[part].long()
        sums += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    values_per_channel = count * pixels.shape[2] * pixels.shape[3]
    mean = sums / values_per_channel / 255
    variance = squares / values_per_channel / 255**2 - mean**2
    std = variance.clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
