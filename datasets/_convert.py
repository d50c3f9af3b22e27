"""Turn an opened image into uint8 pixels of one form: its channels, its range of values, its shape.

A part of the decoding worker (_decode.py), so Pillow and numpy only.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

Range = tuple[float, float]
Notes = Counter[str]  # what was dropped or replaced, and how often


class Conversion(NamedTuple):
    """How image files become uint8 pixels, whatever their size: one rule for a whole data set."""

    fit: str = "crop"
    """crop: the largest centred box of the shape wanted; squeeze: both sides to those wanted; pad: the whole image, its
    mean colour around it; auto, until images are looked at: squeeze where a crop would leave out much."""
    channels: int = 3
    """1: grey; 3: red, green, blue. With `whole` as many as the files have; 0 until images are looked at."""
    whole: bool = False
    """Every channel and page of a file is a channel, and none is mixed with others."""
    integers: Range | None = None
    """Values that become 0 and 255, of files of integers of more than 8 bits. None: not measured yet."""
    floats: Range | None = None
    """The same of files of floating-point numbers."""
    bytes: Range | None = None
    """The same of files of 8 bits. It is never measured: None keeps their values."""


AS_PUBLISHED = Conversion()


class Form(NamedTuple):
    """The pixels that a worker makes of each image: uint8 (channels, height, width)."""

    size: tuple[int, int]
    """Height and width."""
    exact: bool
    """All images have that size, and are stored as they are."""
    conversion: Conversion = AS_PUBLISHED

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.conversion.channels, *self.size


class OtherSize(Exception):
    """An image is not of the size that all were expected to have."""


class NoRange(Exception):
    """An image has values of a kind, "integers" or "floats", whose range is not known. None was expected."""


def convert(image: Image.Image, turn: int, form: Form, notes: Notes) -> np.ndarray:
    """uint8 (C, height, width) of an image that Pillow decodes. turn: EXIF's orientation; 1 is upright."""
    conversion = form.conversion
    if turn != 1:
        image = ImageOps.exif_transpose(image)
    deep = is_deep(image.mode)
    if deep:
        image = Image.fromarray(levels(np.asarray(image), conversion, notes))
    if conversion.whole:
        image = separate(image)
        count = len(image.getbands())
        if (count, conversion.channels) != (1, 3):
            check_channels(count, conversion)
            return fitted(image if deep else stretched(image, conversion, notes), form, notes)
    if conversion.channels == 1:
        image = image if image.mode == "L" else rgb(image, notes).convert("L")
    else:
        image = rgb(image, notes)
    return fitted(image if deep else stretched(image, conversion, notes), form, notes)


def convert_planes(pages: np.ndarray, turn: int, form: Form, notes: Notes) -> np.ndarray:
    """uint8 (C, height, width) of the pages' channels (P, C, H, W) of any type."""
    conversion = form.conversion
    if conversion.whole:
        planes = pages.reshape(-1, *pages.shape[2:])
        check_channels(len(planes), conversion)
    else:
        note_dropped(notes, len(pages), pages.shape[1])
        planes = pages[0, :3] if pages.shape[1] >= 3 else pages[0, :1]
    planes = levels(turned(planes, turn), conversion, notes)
    if conversion.whole:
        fits = [fitted(Image.fromarray(plane), form, Counter()) for plane in planes[1:]]
        return np.concatenate([fitted(Image.fromarray(planes[0]), form, notes), *fits])
    image = Image.fromarray(planes[0])
    if len(planes) == 3:
        image = Image.merge("RGB", [Image.fromarray(plane) for plane in planes])
    return fitted(image.convert("RGB" if conversion.channels == 3 else "L"), form, notes)


def note_dropped(notes: Notes, pages: int, channels: int) -> None:
    """Count a file of which one page, and of that one or three channels, are used."""
    if pages > 1:
        notes[f"pages {pages}"] += 1
    if channels not in (1, 3):
        notes[f"channels {channels}"] += 1


def check_channels(count: int, conversion: Conversion) -> None:
    """ValueError when an image has not the channels of its data set."""
    if count != conversion.channels:
        raise ValueError(f"{count} channels, and the data set has {conversion.channels}")


# Values


def is_deep(mode: str) -> bool:
    """Whether an image of this mode of Pillow has one channel of more than 8 bits."""
    return mode == "F" or mode.startswith("I")


def kind_of(values: np.ndarray) -> str:
    """Which range of a conversion holds for these values."""
    return "floats" if values.dtype.kind == "f" else "integers"


def levels(values: np.ndarray, conversion: Conversion, notes: Notes) -> np.ndarray:
    """Values of any type as uint8: the range's ends become 0 and 255, what is beyond is cut.

    What is no finite number becomes the mean of the image's other values, or an end of the range.
    """
    if values.dtype == np.uint8:
        return scaled(values, "bytes", conversion.bytes, notes) if conversion.bytes else values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    kind = kind_of(values)
    limits = conversion.floats if kind == "floats" else conversion.integers
    if limits is None:
        raise NoRange(kind)
    return scaled(finite(values.astype(np.float64), limits, notes), kind, limits, notes)


def scaled(values: np.ndarray, kind: str, limits: Range, notes: Notes) -> np.ndarray:
    """Finite values as uint8."""
    low, high = limits
    notes[f"{kind} all"] += values.size
    notes[f"{kind} outside"] += int(np.count_nonzero((values < low) | (values > high)))
    scaled = (values - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def stretched(image: Image.Image, conversion: Conversion, notes: Notes) -> Image.Image:
    """An image of 8 bits a channel with the range of values that is stated for such, if any."""
    if conversion.bytes is None:
        return image
    pixels = scaled(np.asarray(image), "bytes", conversion.bytes, notes)
    return Image.fromarray(pixels)


def finite(values: np.ndarray, limits: Range, notes: Notes) -> np.ndarray:
    """The values, all finite. ValueError when none is."""
    usable = np.isfinite(values)
    missing = values.size - int(np.count_nonzero(usable))
    if not missing:
        return values
    if missing == values.size:
        raise ValueError("none of its values is a finite number")
    notes["not finite files"] += 1
    notes["not finite"] += missing
    low, high = limits
    return np.nan_to_num(values, nan=values[usable].mean(), neginf=low, posinf=high)


# Channels


def rgb(image: Image.Image, notes: Notes) -> Image.Image:
    """Any mode of 8 bits as RGB; what is transparent becomes white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if has_alpha(image):
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            notes["transparent"] += 1
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def separate(image: Image.Image) -> Image.Image:
    """The image in a mode that has each of its channels: a palette becomes colours, an alpha channel stays one."""
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if has_alpha(image):
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def channels_of(image: Image.Image) -> int:
    """How many `separate` gives."""
    if image.mode == "LA":
        return 2
    if has_alpha(image):
        return 4
    return 1 if image.mode in ("1", "L") or is_deep(image.mode) else 3


# Shape


def turned(planes: np.ndarray, turn: int) -> np.ndarray:
    """Planes (C, H, W) upright, as EXIF's eight orientations say."""
    if turn >= 5:
        planes = planes.transpose(0, 2, 1)
    if turn in (3, 4, 7, 8):
        planes = planes[:, ::-1]
    if turn in (2, 3, 6, 7):
        planes = planes[:, :, ::-1]
    return np.ascontiguousarray(planes)


def fitted(image: Image.Image, form: Form, notes: Notes) -> np.ndarray:
    """uint8 (C, height, width) of an image of 8 bits, brought to the form's shape in the conversion's way."""
    (height, width), fit = form.size, form.conversion.fit
    size = (width, height)  # as Pillow has it
    if form.exact and image.size != size:
        raise OtherSize
    if image.size != size:
        notes["beyond the centre"] += beyond_centre(image.size, form.size)  # type: ignore[assignment]  # a sum of shares
        if fit == "squeeze":
            image = image.resize(size, Image.Resampling.BICUBIC)
        elif fit == "pad":
            image = padded(image, size)
        else:
            image = centred(image, form.size)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def centre_box(size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest box of a shape (height, width) in an image of size (width, height)."""
    (width, height), (rows, columns) = size, shape
    if width * rows > height * columns:
        return height * columns / rows, height
    return width, width * rows / columns


def beyond_centre(size: tuple[int, int], shape: tuple[int, int]) -> float:
    """The share of the pixels outside that box."""
    width, height = centre_box(size, shape)
    return 1 - width * height / (size[0] * size[1])


def centred(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """Resize the largest box of the shape (height, width) in the middle."""
    width, height = centre_box(image.size, shape)
    left = (image.width - width) / 2
    top = (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)


def padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize until the image fits into size (width, height), in the middle of its mean colour."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    colours = np.atleast_1d(np.asarray(image).mean((0, 1)).round().astype(int))
    whole = Image.new(image.mode, size, tuple(colours.tolist()))
    whole.paste(image, ((size[0] - width) // 2, (size[1] - height) // 2))
    return whole
