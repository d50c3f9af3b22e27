"""TIFF files as what they are: any number of channels, of any type, and pages. A part of the decoding worker.

Pillow reads one page of up to four channels of 8 bits, or one channel of up to 32. The rest needs tifffile, which is
imported only then: pip install tifffile.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

# Tags: bits of each channel of a page, their number, how they lie, what those beyond the colours are
BITS, SAMPLES, PLANAR, EXTRA = 258, 277, 284, 338
HINT = "pip install tifffile"


class NoTifffile(ValueError):
    """A file that only tifffile reads, and it is not installed."""


def installed() -> bool:
    return importlib.util.find_spec("tifffile") is not None


def samples(image: Image.Image) -> int:
    """Channels of each page, of an opened TIFF file."""
    return int(image.tag_v2.get(SAMPLES, 1))  # type: ignore[attr-defined]  # it is a TiffImageFile


def is_cut(image: Image.Image) -> bool:
    """Whether Pillow gives fewer channels of an opened TIFF file than it has."""
    palette_or_colours = len(image.getbands())
    return samples(image) > palette_or_colours


def is_alpha_a_guess(image: Image.Image) -> bool:
    """Whether Pillow takes a channel of an opened TIFF file for alpha that the file does not say to be one."""
    return "A" in image.getbands() and EXTRA not in image.tag_v2  # type: ignore[attr-defined]


def bits(image: Image.Image) -> int:
    """Of each value, of an opened TIFF file."""
    return max(image.tag_v2.get(BITS, (1,)))  # type: ignore[attr-defined]  # it is a TiffImageFile


def is_planar(image: Image.Image) -> bool:
    """Whether an opened TIFF file has one channel after another, and not one pixel after another."""
    return image.tag_v2.get(PLANAR) == 2  # type: ignore[attr-defined]  # it is a TiffImageFile


def page_stack(image: Image.Image) -> np.ndarray:
    """The pages (P, H, W) of an opened file of grey pages. ValueError where they differ in size or mode."""
    pages = []
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        pages.append(np.asarray(image))
    image.seek(0)
    if len({(page.shape, page.dtype) for page in pages}) > 1 or pages[0].ndim != 2:
        raise ValueError(f"its {len(pages)} pages are no channels: they differ, or have colours")
    return np.stack(pages)


def read(file: str | BinaryIO) -> np.ndarray:
    """The pages' channels (P, C, H, W). NoTifffile without the package, ValueError of a damaged file."""
    with first_series(file) as series:
        return paged(series.asarray(), series.axes)


def shape(file: str | BinaryIO) -> tuple[int, int, int, int, str]:
    """Pages, channels, height, width, and numpy's name of the type, from the header. Errors are those of `read`."""
    with first_series(file) as series:
        empty = np.broadcast_to(np.zeros(1, np.uint8), series.shape)
        return (*paged(empty, series.axes).shape, str(series.dtype))


@contextmanager
def first_series(file: str | BinaryIO) -> Iterator[Any]:
    """tifffile's first series of pages that belong together."""
    if not installed():
        raise NoTifffile(f"a TIFF file that Pillow does not read whole: {HINT}")
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            yield tiff.series[0]
    except (ArithmeticError, MemoryError) as error:  # sizes of 0, or of many gigabytes
        raise ValueError("a damaged TIFF file") from error


def paged(values: np.ndarray, axes: str) -> np.ndarray:
    """Values with tifffile's letters of their axes (Y, X, S: samples, others are pages) -> (P, C, H, W)."""
    height, width = axes.index("Y"), axes.index("X")
    channels = [axis for axis, letter in enumerate(axes) if letter in "SC"]
    pages = [axis for axis in range(values.ndim) if axis not in (height, width, *channels)]
    values = values.transpose(*pages, *channels, height, width)
    count = int(np.prod(values.shape[: len(pages)]))
    return values.reshape(count, -1, *values.shape[-2:])
