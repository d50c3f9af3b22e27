"""A teacher's stored maps, compared with their checksums without being used."""

import zlib
from pathlib import Path
from typing import BinaryIO

from .teacher_maps import TYPES, MapShape, read_header

PIECE = 1 << 20  # bytes that are read at once


def verify(folder: Path) -> str | None:
    """What was compared of a folder's files; None where they have no checksums. ValueError where one is damaged."""
    header = read_header(folder)
    if header is None or "beginnings" not in header:
        return None
    for name, shape in header["maps"].items():
        path = folder / f"{name}.npy"
        image_bytes = MapShape(*shape).values * TYPES[header["dtype"]].itemsize
        begins, checksum = header["beginnings"][name]
        parts = [("how it begins", begins, checksum)]
        start = 0
        for batch in header["batches"]:
            end = start + batch["images"]
            what = f"the maps of images {start} to {end - 1}"
            parts.append((what, batch["images"] * image_bytes, batch["checksums"][name]))
            start = end
        try:
            with open(path, "rb") as file:
                damaged = [what for what, size, stated in parts if _crc32(file, size) != stated]
        except FileNotFoundError:
            raise ValueError(f"{path} is gone: make the features anew") from None
        if damaged:
            raise ValueError(f"{path} is damaged in {damaged[0]}: make the features anew")
    return "the CRC-32 of each batch, and its header's hash"


def _crc32(file: BinaryIO, size: int) -> int:
    """The checksum of the next so many bytes, or of those that are there."""
    checksum = 0
    while size > 0 and (piece := file.read(min(PIECE, size))):
        checksum = zlib.crc32(piece, checksum)
        size -= len(piece)
    return checksum if size == 0 else -1
