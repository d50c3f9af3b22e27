"""Decode images; run as a program, it is a decoding worker (_workers.py).

The worker is a program of its own, not a multiprocessing child, because those import the main script again (torch,
seconds each) or fork a process that already has threads. So this file imports Pillow and numpy only.

An image's place is the path of a file, or a list: [file, offset, length] of bytes inside a file, or
[file, offset of the member's header, stored length, length, compressed?, CRC-32] of a member of a zip file.
"""

import functools
import io
import json
import os
import re
import signal
import struct
import sys
import warnings
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Place = str | list
MAX_PIXELS = "MULTICROP_MAX_IMAGE_PIXELS"
ORIENTATION = 0x0112  # the EXIF tag
UNREADABLE = (  # what Pillow raises for damaged bytes
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class OtherSize(Exception):
    """An image is not of the side that all were expected to have."""


def read(place: Place, side: int, exact: bool) -> np.ndarray:
    """One image as uint8 (3, side, side), upright and RGB.

    exact: it is stored as it is, OtherSize when it has another size. Otherwise the shorter side is resized to `side`
    (bicubic, antialiased) and the centre is kept.
    """
    with open_image(place) as image:
        if not exact:
            # JPEG only: decode at 1/2, 1/4, 1/8, never below twice the side.
            image.draft(None, (2 * side, 2 * side))
        upright = image
        if orientation(image) != 1:
            upright = ImageOps.exif_transpose(image)
        if exact and upright.size != (side, side):
            raise OtherSize(file_of(place))
        return np.asarray(centre_square(rgb(upright), side)).transpose(2, 0, 1)


def open_image(place: Place) -> Image.Image:
    """The image, its pixels not decoded yet. One of UNREADABLE when that cannot be."""
    allow_pixels()
    file = place if isinstance(place, str) else io.BytesIO(content(place))
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not register_heif():
            raise
        return Image.open(file)


@functools.cache
def register_heif() -> bool:
    """Let Pillow open HEIC files too, as phones write them, if the package pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def allow_pixels() -> None:
    """Let Pillow open images of as many pixels as most_pixels() says, without warnings on large ones."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    most = most_pixels()
    if most:
        Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow refuses more than twice this


def most_pixels() -> int | None:
    """$MULTICROP_MAX_IMAGE_PIXELS, the pixels of the largest image that may be decoded; None: Pillow's own limit."""
    most = os.environ.get(MAX_PIXELS)
    if not most:
        return None
    if not most.isdecimal() or int(most) < 1:
        raise ValueError(
            f"{MAX_PIXELS}={most} is no number of pixels: give a whole number of at least 1"
        )
    return int(most)


def is_allowed_now(reason: str) -> bool:
    """Whether an image that was unreadable for this reason was only too large then, and is not any more."""
    most = most_pixels()
    too_large = re.match(rf"(\d+) pixels are more than .*{MAX_PIXELS}", reason)
    return bool(most and too_large and int(too_large[1]) <= most)


def content(place: Place) -> bytes:
    """The bytes of an image's file. OSError when they are not those that were stored."""
    if isinstance(place, str):
        with open(place, "rb") as image:
            return image.read()
    file, offset, length, *member = place
    with open(file, "rb") as stored:
        stored.seek(offset)
        if member:
            return unzip(stored, length, *member)
        return read_exactly(stored, length)


def unzip(stored: BinaryIO, packed: int, length: int, compressed: bool, crc: int) -> bytes:
    """A member of a zip file whose local header comes next, stored in `packed` bytes."""
    header = read_exactly(stored, 30)
    name, extra = struct.unpack("<HH", header[26:])  # lengths of the fields that follow the header
    stored.seek(name + extra, io.SEEK_CUR)
    data = read_exactly(stored, packed)
    if compressed:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length + 1)
    if header[:4] != b"PK\3\4" or len(data) != length or zlib.crc32(data) != crc:
        raise OSError("damaged inside the archive")
    return data


def read_exactly(stored: BinaryIO, length: int) -> bytes:
    """So many bytes. OSError when the file ends before."""
    data = stored.read(length)
    if len(data) != length:
        raise OSError("the file ends before it")
    return data


def file_of(place: Place) -> str:
    """The file that holds an image."""
    return place if isinstance(place, str) else str(place[0])


def size(place: Place) -> tuple[int, int] | None:
    """Width and height from the header; None when it is not readable."""
    try:
        with open_image(place) as image:
            return image.size
    except UNREADABLE:
        return None


def square_side(place: Place) -> int | None:
    """The side of a square image, from its header; None when it is not square or not readable."""
    width_and_height = size(place)
    if width_and_height is None:
        return None
    width, height = width_and_height
    return width if width == height else None


def orientation(image: Image.Image) -> int:
    """How the image is to be turned, as its EXIF data says; 1 is upright."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:  # damaged EXIF of an image that may be fine
        return 1


def rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; what is transparent becomes white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(eight_bits(np.asarray(image)))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Greyscale of 16 bits, of 32 bits, or floating point (0..1, or 0..255) as uint8."""
    scale = 1.0
    if values.dtype.kind == "f":
        scale = 255.0 if values.max() <= 1 else 1.0
    elif values.dtype.itemsize == 2 or values.max() > 255:
        scale = 1 / 257  # 65535 becomes 255; Pillow's own conversion would clip at 255
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)


def centre_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the largest square in the middle."""
    if image.size == (side, side):
        return image
    short = min(image.size)
    left = (image.width - short) / 2
    top = (image.height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


def decode_rows(places: list[Place], side: int, exact: bool) -> tuple[np.ndarray, list[list]]:
    """uint8 (N, 3, side, side) and [[row, reason]] of those that cannot be read, which are black."""
    pixels = np.zeros((len(places), 3, side, side), np.uint8)
    unreadable = []
    for row, place in enumerate(places):
        try:
            pixels[row] = read(place, side, exact)
        except UNREADABLE as error:
            unreadable.append([row, one_line(error, place)])
    return pixels, unreadable


def decode(out: BinaryIO, start: int, places: list[Place], side: int, exact: bool) -> dict:
    """Write the images as rows start, start + 1, ... of `out`.

    Returns {count, unreadable: [[row, reason]], sums, squares}; the sums are per channel.
    """
    pixels, unreadable = decode_rows(places, side, exact)
    out.seek(start * pixels[0].nbytes)
    out.write(pixels.data)
    out.flush()  # so that a full disk is an error here
    sums = pixels.sum((0, 2, 3), dtype=np.int64)
    squares = np.square(pixels, dtype=np.uint32)
    squares = squares.sum((0, 2, 3), dtype=np.int64)
    return {
        "count": len(places),
        "unreadable": [[start + row, reason] for row, reason in unreadable],
        "sums": sums.tolist(),
        "squares": squares.tolist(),
    }


def one_line(error: BaseException, place: Place) -> str:
    """Why an image cannot be read, without the name of its file."""
    reason = str(error)
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = re.findall(r"\d+", reason)[:2]
        return f"{pixels} pixels are more than {limit}: set {MAX_PIXELS}={pixels} if you trust the file"
    if "cannot identify image file" in reason:
        return "not an image, or damaged"
    reason = reason.replace(repr(file_of(place)), "")
    return " ".join(reason.split()) or type(error).__name__


def serve_file(side: int, exact: bool, path: str) -> None:
    """Reply to each line [start, places] on standard input with a line on standard output; the pixels go to a file."""
    with open(path, "r+b") as out:
        for line in sys.stdin:
            start, places = json.loads(line)
            try:
                reply = decode(out, start, places, side, exact)
            except OtherSize as error:
                reply = {"other_size": str(error)}
            except OSError as error:
                reply = {"error": error.strerror or str(error)}
            print(json.dumps(reply), flush=True)


def serve_stream(side: int) -> None:
    """Reply to each line of places with a line {unreadable} and the pixels' bytes, until the input ends."""
    for line in sys.stdin:
        pixels, unreadable = decode_rows(json.loads(line), side, False)
        reply = json.dumps({"unreadable": unreadable})
        out = sys.stdout.buffer
        out.write(reply.encode() + b"\n")
        out.write(pixels.data)
        out.flush()


def ignore_signals() -> None:
    """They are the parent's to handle: when it ends, our input does."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has not all of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def main(words: list[str]) -> None:
    """`stream SIDE`, or `exact SIDE FILE`, or `fit SIDE FILE`."""
    ignore_signals()
    if words[0] == "stream":
        serve_stream(int(words[1]))
    else:
        kind, side, path = words
        serve_file(int(side), kind == "exact", path)


if __name__ == "__main__":
    main(sys.argv[1:])
