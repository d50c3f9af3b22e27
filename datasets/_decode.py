"""Decode image files into rows of one pixel file; run as a program, it is a decoding worker of _cache.py.

The worker is a program of its own, not a multiprocessing child, because those import the main script again (torch,
seconds each) or fork a process that already has threads. So this file imports Pillow and numpy only.
"""

import json
import signal
import struct
import sys
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag
UNREADABLE = (  # what Pillow raises for damaged bytes
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


class OtherSize(Exception):
    """An image is not of the side that all were expected to have."""


def read(path: str, side: int, exact: bool) -> np.ndarray:
    """One image as uint8 (3, side, side), upright and RGB.

    exact: it is stored as it is, OtherSize when it has another size. Otherwise the shorter side is resized to `side`
    (bicubic, antialiased) and the centre is kept.
    """
    with Image.open(path) as image:
        if not exact:
            image.draft(None, (2 * side, 2 * side))  # JPEG only: decode at 1/2, 1/4, 1/8, never below twice the side
        upright = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        if exact and upright.size != (side, side):
            raise OtherSize(path)
        return np.asarray(centre_square(rgb(upright), side)).transpose(2, 0, 1)


def square_side(path: str) -> int | None:
    """The side of a square image, from its header; None when it is not square or not readable."""
    try:
        with Image.open(path) as image:
            return image.width if image.width == image.height else None
    except UNREADABLE:
        return None


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
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))


def decode(out: BinaryIO, start: int, paths: list[str], side: int, exact: bool) -> dict:
    """Write the images of `paths` as rows start, start + 1, ... of `out`.

    Returns {count, bad: [[row, reason]], sums, squares}: an unreadable image leaves a black row; sums are per channel.
    """
    pixels = np.zeros((len(paths), 3, side, side), np.uint8)
    bad = []
    for row, path in enumerate(paths):
        try:
            pixels[row] = read(path, side, exact)
        except UNREADABLE as error:
            bad.append([start + row, one_line(error, path)])
    out.seek(start * pixels[0].nbytes)
    out.write(pixels.data)
    out.flush()  # so that a full disk is an error here
    sums = pixels.sum((0, 2, 3), dtype=np.int64)
    squares = np.square(pixels, dtype=np.uint32).sum((0, 2, 3), dtype=np.int64)
    return {"count": len(paths), "bad": bad, "sums": sums.tolist(), "squares": squares.tolist()}


def one_line(error: BaseException, path: str) -> str:
    if "cannot identify image file" in str(error):
        return "not an image, or damaged"
    return " ".join(str(error).replace(repr(path), "").split()) or type(error).__name__


def main(pixel_file: str, side: str, exact: str) -> None:
    """Answer each line [start, paths] on standard input with one line on standard output, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes our input
    with open(pixel_file, "r+b") as out:
        for line in sys.stdin:
            start, paths = json.loads(line)
            try:
                answer = decode(out, start, paths, int(side), exact == "exact")
            except OtherSize as error:
                answer = {"other_size": str(error)}
            except OSError as error:
                answer = {"error": error.strerror or str(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
