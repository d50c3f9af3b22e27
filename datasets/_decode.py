"""Decode images; run as a program, it is a decoding worker (_workers.py).

The worker is a program of its own, not a multiprocessing child, because those import the main script again (torch,
seconds each) or fork a process that already has threads. So this file imports Pillow and numpy only.

An image's place is the path of a file, or a list: [file, offset, length] of bytes inside a file, or
[file, offset of the member's header, stored length, length, compressed?, CRC-32] of a member of a zip file.
"""

import io
import json
import signal
import struct
import sys
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

Place = str | list
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
    with Image.open(source(place)) as image:
        if not exact:
            image.draft(
                None, (2 * side, 2 * side)
            )  # JPEG only: decode at 1/2, 1/4, 1/8, never below twice the side
        upright = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        if exact and upright.size != (side, side):
            raise OtherSize(where(place))
        return np.asarray(centre_square(rgb(upright), side)).transpose(2, 0, 1)


def source(place: Place) -> str | io.BytesIO:
    """What Pillow opens. OSError when the bytes are not those that were stored."""
    if isinstance(place, str):
        return place
    file, offset, length, *packed = place
    with open(file, "rb") as stored:
        stored.seek(offset)
        if packed:
            return io.BytesIO(unzipped(stored, length, *packed))
        return io.BytesIO(whole(stored.read(length), length))


def unzipped(stored: BinaryIO, packed: int, length: int, compressed: bool, crc: int) -> bytes:
    """A member of a zip file whose local header comes next."""
    header = whole(stored.read(30), 30)
    stored.seek(sum(struct.unpack("<HH", header[26:])), io.SEEK_CUR)  # its name and its extra field
    content = whole(stored.read(packed), packed)
    if compressed:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, length + 1)
    if header[:4] != b"PK\3\4" or len(content) != length or zlib.crc32(content) != crc:
        raise OSError("damaged inside the archive")
    return content


def whole(content: bytes, length: int) -> bytes:
    if len(content) != length:
        raise OSError("the file ends before it")
    return content


def where(place: Place) -> str:
    return place if isinstance(place, str) else str(place[0])


def size(place: Place) -> tuple[int, int] | None:
    """Width and height from the header; None when it is not readable."""
    try:
        with Image.open(source(place)) as image:
            return image.size
    except UNREADABLE:
        return None


def square_side(place: Place) -> int | None:
    """The side of a square image, from its header; None when it is not square or not readable."""
    width, height = size(place) or (0, None)
    return width if width == height else None


def orientation(image: Image.Image) -> int:
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
    if image.size == (side, side):
        return image
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize(
        (side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short)
    )


def rows(places: list[Place], side: int, exact: bool) -> tuple[np.ndarray, list[list]]:
    """uint8 (N, 3, side, side) and [[row, reason]] of those that cannot be read, which are black."""
    pixels, bad = np.zeros((len(places), 3, side, side), np.uint8), []
    for row, place in enumerate(places):
        try:
            pixels[row] = read(place, side, exact)
        except UNREADABLE as error:
            bad.append([row, one_line(error, place)])
    return pixels, bad


def decode(out: BinaryIO, start: int, places: list[Place], side: int, exact: bool) -> dict:
    """Write the images as rows start, start + 1, ... of `out`.

    Returns {count, bad: [[row, reason]], sums, squares}; the sums are per channel.
    """
    pixels, bad = rows(places, side, exact)
    out.seek(start * pixels[0].nbytes)
    out.write(pixels.data)
    out.flush()  # so that a full disk is an error here
    sums = pixels.sum((0, 2, 3), dtype=np.int64)
    squares = np.square(pixels, dtype=np.uint32).sum((0, 2, 3), dtype=np.int64)
    bad = [[start + row, reason] for row, reason in bad]
    return {"count": len(places), "bad": bad, "sums": sums.tolist(), "squares": squares.tolist()}


def one_line(error: BaseException, place: Place) -> str:
    if "cannot identify image file" in str(error):
        return "not an image, or damaged"
    return " ".join(str(error).replace(repr(where(place)), "").split()) or type(error).__name__


def serve_file(path: str, side: int, exact: bool) -> None:
    """Answer each line [start, places] on standard input with a line on standard output; the pixels go to a file."""
    with open(path, "r+b") as out:
        for line in sys.stdin:
            start, places = json.loads(line)
            try:
                answer = decode(out, start, places, side, exact)
            except OtherSize as error:
                answer = {"other_size": str(error)}
            except OSError as error:
                answer = {"error": error.strerror or str(error)}
            print(json.dumps(answer), flush=True)


def serve_stream(side: int) -> None:
    """Answer each line of places with a line {bad} and the pixels' bytes, until the input ends."""
    for line in sys.stdin:
        pixels, bad = rows(json.loads(line), side, False)
        sys.stdout.buffer.write(json.dumps({"bad": bad}).encode() + b"\n")
        sys.stdout.buffer.write(pixels.data)
        sys.stdout.buffer.flush()


def main(kind: str, side: str, *path: str) -> None:
    for name in (
        "SIGINT",
        "SIGTERM",
        "SIGUSR1",
    ):  # the parent's to handle: when it ends, our input does
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if kind == "stream":
        serve_stream(int(side))
    else:
        serve_file(*path, int(side), kind == "exact")


if __name__ == "__main__":
    main(*sys.argv[1:])
