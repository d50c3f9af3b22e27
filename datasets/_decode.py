"""Decode images, in this process or in a decoding worker (_decoder.py is its program, _workers.py starts it).

The worker is a program of its own, not a multiprocessing child, because those import the main script again (torch,
seconds each) or fork a process that already has threads. So this file and its parts import Pillow and numpy only.

What an image's place is: _bytes.py.
"""

import contextlib
import json
import re
import signal
import sys
import zlib
from collections import Counter
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from . import _convert, _tiff
from ._bytes import (
    MAX_PIXELS,
    UNREADABLE,
    Place,
    Source,
    content_and_checksum,
    file_of,
    file_or_bytes,
    is_tiff,
    open_image,
    size_of,
)
from ._convert import Conversion, Form, NoRange, Notes, OtherSize

ORIENTATION = 0x0112  # the EXIF tag
LARGE = 1 << 24  # bytes of a file that is not read whole before it is decoded


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    width: int
    height: int
    channels: int
    """All that the file has, those of its pages included."""
    bits: str
    """Of each value: 8, 16, 32, or float."""
    format: str


def read(place: Source, form: Form, notes: Notes) -> np.ndarray:
    """One image as uint8 (C, height, width), upright. One of UNREADABLE when that cannot be; NoRange, OtherSize."""
    try:
        image = open_image(place)
    except Image.UnidentifiedImageError:
        if not is_tiff(place):
            raise
        return _convert.convert_planes(_tiff.read(file_or_bytes(place)), 1, form, notes)
    with image:
        if not form.exact:
            # JPEG only: decode at 1/2, 1/4, 1/8, never below twice the size.
            side = 2 * max(form.size)
            image.draft(None, (side, side))
        planes = whole_planes(image, place, form.conversion, notes)
        turn = orientation(image)
        if planes is not None:
            return _convert.convert_planes(planes, turn, form, notes)
        return _convert.convert(image, turn, form, notes)


def whole_planes(
    image: Image.Image, place: Source, conversion: Conversion, notes: Notes
) -> np.ndarray | None:
    """Pages and channels (P, C, H, W) of an image of which Pillow's own would be a part; None where they are all.

    What is dropped is noted.
    """
    if image.format == "TIFF":
        loses = loses_bits(image)
        readable = not (loses and _tiff.is_planar(image))  # by Pillow
        is_part = conversion.whole and _tiff.is_cut(image)
        if is_part or not readable:
            return _tiff.read(file_or_bytes(place))
        if loses and _tiff.installed():
            with contextlib.suppress(
                ValueError
            ):  # compressed in a way that needs yet another package
                return _tiff.read(file_or_bytes(place))
        pages = image.n_frames  # type: ignore[attr-defined]  # it is a TiffImageFile
        if pages > 1 and conversion.whole:
            return _tiff.page_stack(image)[:, None]
        if _tiff.is_alpha_a_guess(image) and not conversion.whole:
            _convert.note_dropped(notes, pages, 1)
            return np.asarray(image).transpose(2, 0, 1)[None]
        _convert.note_dropped(notes, pages, _tiff.samples(image) if _tiff.is_cut(image) else 1)
        notes["upper bits, TIFF"] += loses
        notes["needs tifffile"] += loses and not _tiff.installed()
    elif image.format != "JPEG":
        if getattr(image, "is_animated", False):
            notes["animated"] += 1
        if loses_bits(image):
            notes["upper bits"] += 1
    return None


def loses_bits(image: Image.Image) -> bool:
    """Whether Pillow gives the upper 8 bits of the values of this opened image only: colours of 16 bits.

    Once it is decoded, no header says so any more.
    """
    tiles = image.tile  # type: ignore[attr-defined]  # an opened file has them
    if _convert.is_deep(image.mode) or not tiles:
        return False
    if image.format == "TIFF":
        return _tiff.bits(image) > 8
    decoding = tiles[0][3]
    if image.format == "PPM":
        return isinstance(decoding, tuple) and decoding[-1] > 255
    return ";16" in (decoding if isinstance(decoding, str) else str(decoding))


def header(place: Place) -> Header | None:
    """What a file says of its image; None when it is not readable."""
    try:
        image = open_image(place)
    except UNREADABLE:
        return tiff_header(place)
    with image:
        pages, channels = 1, _convert.channels_of(image)
        bits = "8"
        if _convert.is_deep(image.mode):
            bits = "float" if image.mode == "F" else "16" if image.mode.startswith("I;") else "32"
        elif loses_bits(image):
            bits = "16"
        if image.format == "TIFF":
            pages = image.n_frames  # type: ignore[attr-defined]
            channels = max(channels, _tiff.samples(image))
        return Header(*image.size, pages * channels, bits, str(image.format))


def tiff_header(place: Place) -> Header | None:
    """The same of a TIFF file that Pillow cannot open."""
    try:
        if not is_tiff(place):
            return None
        pages, channels, height, width, type_name = _tiff.shape(file_or_bytes(place))
    except UNREADABLE:
        return None
    bits = "float" if "float" in type_name else type_name.lstrip("uint")
    return Header(width, height, pages * channels, bits, "TIFF")


def deep_values(place: Place, conversion: Conversion) -> np.ndarray | None:
    """The values of an image of more than 8 bits as its file has them, of the channels in use; None of others."""
    try:
        image = open_image(place)
    except Image.UnidentifiedImageError:
        if not is_tiff(place):
            raise
        return used(_tiff.read(file_or_bytes(place)), conversion)
    with image:
        planes = whole_planes(image, place, conversion, Counter())
        if planes is None and _convert.is_deep(image.mode):
            planes = np.asarray(image)[None, None]
    return None if planes is None or planes.dtype == np.uint8 else used(planes, conversion)


def used(pages: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Of pages and channels (P, C, H, W) those that a conversion keeps."""
    return pages if conversion.whole else pages[:1, :3]


def size(place: Place) -> tuple[int, int] | None:
    """Width and height from the header; None when it is not readable."""
    found = header(place)
    return None if found is None else found[:2]


def orientation(image: Image.Image) -> int:
    """How the image is to be turned, as its EXIF data says; 1 is upright."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:  # damaged EXIF of an image that may be fine
        return 1


class Rows(NamedTuple):
    """Decoded images."""

    pixels: np.ndarray
    """uint8 (N, C, height, width); those that cannot be read are black."""
    unreadable: list[list]
    """[row, reason] of each of these."""
    notes: Notes
    """What was dropped or replaced, and how often."""
    checksums: list[int]
    """Where they are asked for: of each image the CRC-32 of its file, of a large one that of its pixels.

    0 of one whose bytes could not be read, and never else.
    """


def decode_rows(places: list[Place], form: Form, checked: bool = False) -> Rows:
    """NoRange and OtherSize where the form is not that of these images. checked: with the checksums of their files."""
    rows = Rows(np.zeros((len(places), *form.shape), np.uint8), [], Counter(), [])
    for row, place in enumerate(places):
        source: Source = place
        checksum: int | None = None
        try:
            if checked and size_of(place) <= LARGE:
                source, checksum = content_and_checksum(place)
            rows.pixels[row] = read(source, form, rows.notes)
            if checked and checksum is None:
                checksum = zlib.crc32(rows.pixels[row])
        except UNREADABLE as error:
            rows.notes["needs tifffile"] += isinstance(error, _tiff.NoTifffile)
            rows.unreadable.append([row, one_line(error, place)])
        if checked:
            rows.checksums.append(0 if checksum is None else checksum or 1)
    return rows


def decode(out: BinaryIO, start: int, places: list[Place], form: Form) -> dict[str, Any]:
    """Write the images as rows start, start + 1, ... of `out`.

    Returns {count, unreadable: [[row, reason]], notes, sums, squares, checksum}; the sums are per channel, the checksum
    is the CRC-32 of what was written.
    """
    pixels, unreadable, notes, _ = decode_rows(places, form)
    out.seek(start * pixels[0].nbytes)
    out.write(pixels.data)
    out.flush()  # so that a full disk is an error here
    sums = pixels.sum((0, 2, 3), dtype=np.int64)
    squares = np.square(pixels, dtype=np.uint32)
    squares = squares.sum((0, 2, 3), dtype=np.int64)
    return {
        "count": len(places),
        "unreadable": [[start + row, reason] for row, reason in unreadable],
        "notes": +notes,
        "sums": sums.tolist(),
        "squares": squares.tolist(),
        "checksum": zlib.crc32(pixels.data),
    }


def one_line(error: BaseException, place: Place) -> str:
    """Why an image cannot be read, without the name of its file."""
    reason = str(error)
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = re.findall(r"\d+", reason)[:2]
        return f"{pixels} pixels are more than {limit}: set {MAX_PIXELS}={pixels} if you trust the file"
    if "cannot identify image file" in reason:
        return "not an image, or damaged"
    reason = re.sub(r"^\[Errno \d+\] ", "", reason.replace(repr(file_of(place)), ""))
    return " ".join(reason.split()).rstrip(": ") or type(error).__name__


def serve_file(form: Form, path: str) -> None:
    """Reply to each line [start, places] on standard input with a line on standard output; the pixels go to a file."""
    with open(path, "r+b") as out:
        for line in sys.stdin:
            start, places = json.loads(line)
            try:
                reply = decode(out, start, places, form)
            except OtherSize:
                reply = {"other_size": True}
            except NoRange as error:
                reply = {"no_range": str(error)}
            except OSError as error:
                reply = {"error": error.strerror or str(error)}
            print(json.dumps(reply), flush=True)


def serve_stream(form: Form) -> None:
    """Reply to each line of places with one {unreadable, notes, checksums} and the pixels, until the input ends."""
    out = sys.stdout.buffer
    for line in sys.stdin:
        try:
            rows = decode_rows(json.loads(line), form, checked=True)
        except NoRange as error:
            out.write(json.dumps({"no_range": str(error)}).encode() + b"\n")
            out.flush()
            continue
        reply = {
            "unreadable": rows.unreadable,
            "notes": +rows.notes,
            "checksums": rows.checksums,
        }
        out.write(json.dumps(reply).encode() + b"\n")
        out.write(rows.pixels.data)
        out.flush()


def ignore_signals() -> None:
    """They are the parent's to handle: when it ends, our input does."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has not all of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def form_of(word: str) -> Form:
    """A form from the JSON that a worker is started with."""
    size, exact, conversion = json.loads(word)
    return Form(tuple(size), exact, Conversion(*conversion))


def main(words: list[str]) -> None:
    """`stream FORM`, or `file FORM PATH`."""
    ignore_signals()
    form = form_of(words[1])
    if words[0] == "stream":
        serve_stream(form)
    else:
        serve_file(form, words[2])
