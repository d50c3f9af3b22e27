"""Where the bytes of an image are, and how to get at them. A part of the decoding worker (_decode.py).

An image's place is the path of a file, or a list: [file, offset, length] of bytes inside a file, or
[file, offset of the member's header, stored length, length, compressed?, CRC-32] of a member of a zip file.
"""

import io
import logging
import struct
import zlib
from typing import BinaryIO

from PIL import Image

# Pillow and tifffile log what is wrong with each file; who asks for it still gets it, and standard error does not.
for library in ("PIL", "tifffile"):
    logging.getLogger(library).addHandler(logging.NullHandler())

Place = str | list
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how its files begin
UNREADABLE = (  # what Pillow raises for damaged bytes
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def open_image(place: Place) -> Image.Image:
    """The image, its pixels not decoded yet. One of UNREADABLE when that cannot be."""
    if isinstance(place, str):
        return Image.open(place)
    return Image.open(io.BytesIO(content(place)))


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


def is_tiff(place: Place) -> bool:
    """Whether a file begins as a TIFF file does."""
    if isinstance(place, str):
        with open(place, "rb") as image:
            return image.read(4) in TIFF
    return content(place)[:4] in TIFF


def file_or_bytes(place: Place) -> str | BinaryIO:
    """What tifffile opens."""
    return place if isinstance(place, str) else io.BytesIO(content(place))
