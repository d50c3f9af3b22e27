"""Where the bytes of an image are, and how to get at them. A part of the decoding worker (_decode.py).

An image's place is the path of a file, or a list: [file, offset, length] of bytes inside a file,
[file, offset, length, CRC-32] of bytes whose checksum is known, or
[file, offset of the member's header, stored length, length, compressed?, CRC-32] of a member of a zip file.
What has been read already is opened in its place.
"""

import functools
import io
import logging
import os
import re
import struct
import warnings
import zlib
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# Pillow and tifffile log what is wrong with each file; who asks for it still gets it, and standard error does not.
for library in ("PIL", "tifffile"):
    logging.getLogger(library).addHandler(logging.NullHandler())

Place = str | list
Source = Place | bytes  # an image's place, or its file's bytes
MAX_PIXELS = "MULTICROP_MAX_IMAGE_PIXELS"
MAX_BYTES = "MULTICROP_MAX_IMAGE_BYTES"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how its files begin
UNREADABLE = (  # what Pillow raises for damaged bytes
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def open_image(place: Source) -> Image.Image:
    """The image, its pixels not decoded yet. One of UNREADABLE when that cannot be."""
    allow_pixels()
    try:
        return Image.open(file_or_bytes(place))
    except UnidentifiedImageError:
        if not register_heif():
            raise
        return Image.open(file_or_bytes(place))


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


def most_bytes() -> int:
    """$MULTICROP_MAX_IMAGE_BYTES, what a compressed image file may unpack to."""
    most = os.environ.get(MAX_BYTES)
    if not most:
        return 1 << 28
    if not most.isdecimal() or int(most) < 1:
        raise ValueError(
            f"{MAX_BYTES}={most} is no number of bytes: give a whole number of at least 1"
        )
    return int(most)


def is_allowed_now(reason: str) -> bool:
    """Whether an image that was unreadable for this reason was only too large then, and is not any more."""
    most = most_pixels()
    too_many = re.match(rf"(\d+) pixels are more than .*{MAX_PIXELS}", reason)
    if most and too_many and int(too_many[1]) <= most:
        return True
    too_long = re.match(rf"(\d+) bytes are more than .*{MAX_BYTES}", reason)
    return bool(too_long and int(too_long[1]) <= most_bytes())


def content(place: Source) -> bytes:
    """The bytes of an image's file. OSError when they are not those that were stored."""
    if isinstance(place, bytes):
        return place
    if isinstance(place, str):
        with open(place, "rb") as image:
            return image.read()
    file, offset, length, *member = place
    with open(file, "rb") as stored:
        stored.seek(offset)
        if len(member) > 1:
            return unzip(stored, length, *member)
        data = read_exactly(stored, length)
    if member and zlib.crc32(data) != member[0]:
        raise OSError("its bytes do not match their checksum")
    return data


def content_and_checksum(place: Place) -> tuple[bytes, int]:
    """The bytes of an image's file, and their CRC-32. OSError as content's."""
    data = content(place)
    if isinstance(place, list) and len(place) > 3:
        return data, place[-1]  # with which they have just been compared
    return data, zlib.crc32(data)


def size_of(place: Place) -> int:
    """The bytes of an image's file, unpacked."""
    if isinstance(place, str):
        return os.stat(place).st_size
    return place[3] if len(place) > 4 else place[2]


def size_and_time(place: Place, archives: dict[str, int]) -> tuple[int, int]:
    """The bytes of an image's file, unpacked, and the second it was last written, an archive's for its members.

    archives: the times of those that were asked for before.
    """
    file = file_of(place)
    if not isinstance(place, str):
        if file not in archives:
            archives[file] = int(os.stat(file).st_mtime)
        return size_of(place), archives[file]
    status = os.stat(file)
    return status.st_size, int(status.st_mtime)


def unzip(stored: BinaryIO, packed: int, length: int, compressed: bool, crc: int) -> bytes:
    """A member of a zip file whose local header comes next, stored in `packed` bytes."""
    if length > (most := most_bytes()):
        raise OSError(f"{length} bytes are more than {most}; set {MAX_BYTES}={length} to unpack it")
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


def is_tiff(place: Source) -> bool:
    """Whether a file begins as a TIFF file does."""
    if isinstance(place, str):
        with open(place, "rb") as image:
            return image.read(4) in TIFF
    return content(place)[:4] in TIFF


def file_or_bytes(place: Source) -> str | BinaryIO:
    """What tifffile opens."""
    return place if isinstance(place, str) else io.BytesIO(content(place))
