"""Images in their order, decoded while the network works on those before; those that cannot be read keep their place.

N images; memory holds a few batches, and the images' names.
"""

import os
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from multicrop.config.sizes import ImageSize, height_width
from multicrop.datasets import _look, _notes
from multicrop.datasets._bytes import Place, most_pixels
from multicrop.datasets._convert import Conversion, Form, NoRange
from multicrop.datasets._decode_all import common_size
from multicrop.datasets._given import Given
from multicrop.datasets._images import ImageSet
from multicrop.datasets._places import places
from multicrop.datasets._workers import Decoders, processors

AHEAD = 3  # batches that are decoded while one is in the network
SAMPLE = 1024  # images from which mean and deviation are measured, where no file says them


class Decoded(NamedTuple):
    """Some of the images, in their order."""

    start: int
    pixels: Tensor  # uint8 (B, C, H, W), black where an image cannot be read
    errors: dict[int, str]  # by the row: why it cannot


Read = Callable[[int, int], Decoded]  # from a first image to before another


@dataclass(frozen=True)
class ImageStream:
    """N images. shape: (C, H, W) of each. labels: int64 (N,) where they are known."""

    names: Sequence[str]
    read: Read
    shape: tuple[int, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, start: int, stop: int, size: int) -> Iterator[Decoded]:
        """The images from start to before stop, `size` at a time."""
        starts = iter(range(start, stop, size))
        waiting: deque[Future[Decoded]] = deque()
        with ThreadPoolExecutor(AHEAD, "read") as readers:

            def submit() -> None:
                first = next(starts, None)
                if first is not None:
                    waiting.append(readers.submit(self.read, first, min(first + size, stop)))

            for _ in range(AHEAD):
                submit()
            while waiting:
                batch = waiting.popleft().result()
                submit()
                yield batch

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel, in units of 0..1, of a sample of the images that can be read."""
        count = min(SAMPLE, len(self))
        rows = [self._readable(index * len(self) // count) for index in range(count)]
        pixels = torch.cat(rows).double() / 255
        if not len(pixels):
            raise ValueError("none of these images is readable")
        std, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)
        images = ImageSet(pixels, None, (), tuple(mean.tolist()), tuple(std.tolist()))
        return images.mean, images.std

    def _readable(self, index: int) -> Tensor:
        """One image, or none."""
        decoded = self.read(index, index + 1)
        return decoded.pixels[:0] if decoded.errors else decoded.pixels


class Names(Sequence[str]):
    """What people call the images of several parts."""

    def __init__(self, parts: list[Given]):
        self._parts = parts
        self._ends = list(accumulate(len(part.names) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index):  # one at a time
        part, row = self.place_of(index)
        return self._parts[part].label(row)

    def place_of(self, index: int) -> tuple[int, int]:
        """Which part an image is in, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)


class Places(Sequence[Place]):
    """What the decoder opens for each image; of files in folders made when it is asked for."""

    def __init__(self, parts: list[Given], names: Names, stack: ExitStack):
        self._names = names
        self._open: list[Callable[[int], Place]] = []
        for part in parts:
            self._open.append(_opener(part, stack))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):  # one at a time
        part, row = self._names.place_of(index)
        return self._open[part](row)


def _opener(part: Given, stack: ExitStack) -> Callable[[int], Place]:
    """From the number of an image in its part to its place."""
    if isinstance(part.root, Path):
        root = part.root
        return lambda row: os.path.join(root, part.names[row])
    work = Path(stack.enter_context(TemporaryDirectory()))  # for a compressed archive
    image_places = stack.enter_context(places(part.root, part.names, work))
    return lambda row: image_places[row]


@contextmanager
def decoded_files(
    parts: list[Given], conversion: Conversion, source_size: ImageSize, workers: int | None
) -> Iterator[ImageStream]:
    """Image files, brought to pixels as a data set of them would be.

    conversion: what it leaves open is measured on a sample. source_size: that in pixels, unless all are smaller and of
    one size. Archives that are compressed as a whole are unpacked into a temporary folder meanwhile.
    """
    most_pixels()  # what is wrong with it is said here, and not of each image
    names = Names(parts)
    with ExitStack() as stack:
        image_places = Places(parts, names, stack)
        sample = _look.headers(image_places)
        most = height_width(source_size)
        title = str(parts[0].root) if len(parts) == 1 else "images"
        title = "images" if title == "." else title
        _look.check_channels(sample, conversion, title)
        look = _look.settle(image_places, sample, conversion, most)
        beyond, kinds = _look.beyond_centre(sample, most), _look.kinds_in(sample)
        lines = _notes.conversion_lines(look.conversion, look.measured, beyond, kinds, most)
        _notes.say(title, lines)
        form = Form(common_size(sample, most) or most, False, look.conversion)
        share = processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        decoders = Decoders(workers or max(1, share), form)
        yield ImageStream(names, _Files(image_places, decoders), form.shape)


class _Files:
    """Read, of image files; says once of each thing that is dropped or replaced."""

    def __init__(self, image_places: Places, decoders: Decoders):
        self._places, self._decoders = image_places, decoders
        self._said: Counter[str] = Counter()

    def __call__(self, start: int, stop: int) -> Decoded:
        wanted = [self._places[index] for index in range(start, stop)]
        try:
            pixels, unreadable, notes, _ = self._decoders.decode(wanted)
        except NoRange:
            raise ValueError(
                "some of these images have more than 8 bits, and those of a sample had not: give --value_range LOW "
                "HIGH, the values that are to be black and white"
            ) from None
        new = {note: count for note, count in notes.items() if note not in self._said}
        self._said.update(new)
        _notes.say("of the images read by now", _notes.note_lines(new))
        errors = dict(unreadable)
        return Decoded(start, torch.from_numpy(pixels), errors)


def stored_images(images: ImageSet, split: str) -> ImageStream:
    """Images of a data set that are no files: they are named by the split and their number."""
    names = _Numbered(split, len(images))

    def read(start: int, stop: int) -> Decoded:
        return Decoded(start, images.pixels[start:stop], {})

    shape = tuple(images.pixels.shape[1:])
    return ImageStream(names, read, shape, images.labels, images.classes)


class _Numbered(Sequence[str]):
    def __init__(self, split: str, count: int):
        self._split, self._count = split, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):  # one at a time
        if not 0 <= index < self._count:
            raise IndexError(index)
        return f"{self._split}/{index}"


def with_labels(
    stream: ImageStream, labels: list[int] | None, classes: tuple[str, ...]
) -> ImageStream:
    if labels is None:
        return stream
    return replace(stream, labels=torch.tensor(labels), classes=classes)
