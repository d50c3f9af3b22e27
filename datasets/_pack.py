"""Write image files as LMDB files: the format of our own that the data set lmdb reads.

Keys 00000000, 00000001, ... hold the files' bytes, "labels" int32 little-endian numbers where there are labels, "about"
JSON with the format, the number of images and the classes, "checksums" each image's CRC-32, "hash" that of the other
three, "seal" the SHA-256 of the whole file but for its own bytes: a disk may flip bits, and LMDB does not notice. Files
of older versions lack the last three.
"""

import glob
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import _bytes
from ._bytes import Place, read_exactly
from ._console import progress, say_once
from ._folders import Listing, check_no_empty_class
from ._lmdb import Database
from ._moving import take_name
from ._places import places, stamp

FORMAT = "multicrop images 1"
CLASSES, LABELS, CHECKSUMS, HASH, SEAL = b"about", b"labels", b"checksums", b"hash", b"seal"  # keys
COMMIT = 1000  # images per transaction
PAGE = 4096
PIECE = 1 << 20  # bytes that are read at once


def pack(listings: dict[str, Listing], folder: Path) -> dict[str, int]:
    """Write {split: listing} as folder/<split>.lmdb; the number of bytes of each. Errors are those of pack_file."""
    return {
        split: pack_file(images, folder / f"{split}.lmdb") for split, images in listings.items()
    }


def pack_file(listing: Listing, file: Path) -> int:
    """Copy the images' files, as they are, into `file`; the number of bytes. It appears when it is complete.

    Images without a readable header are named and left out. One that an interrupted command has completed of the same
    images stays. FileExistsError where there is one of others, OSError without room, ValueError without the package
    lmdb or without an image.
    """
    check_no_empty_class(listing)
    if file.exists():
        if _source_of(file) != _stamp(listing):
            raise FileExistsError(
                f"{file} is there already: remove it, or give another --output_dir"
            )
        say_once(f"{file} holds these images already: kept")
        return file.stat().st_size
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(file)
    work = file.with_name(f"{_prefix(file)}{os.getpid()}")
    try:
        with places(listing.root.resolve(), listing.names, file.parent) as image_places:
            size = _room_for(image_places)
            free = shutil.disk_usage(file.parent).free
            if size > free:
                raise OSError(
                    f"{file} needs {size / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: make room"
                )
            _write(image_places, listing, work, size)
            _seal(work)
        take_name(work, file)
    finally:
        work.unlink(missing_ok=True)
    return file.stat().st_size


def _stamp(listing: Listing) -> str:
    """Changes when the files, their labels or the classes do."""
    digest = hashlib.sha256(stamp(listing.root.resolve(), listing.names))
    digest.update(json.dumps([listing.labels, listing.classes]).encode())
    return digest.hexdigest()


def _source_of(file: Path) -> str | None:
    """The stamp of the images that a file was packed from, None where it says nothing of it."""
    try:
        return json.loads(Database(file)[CLASSES]).get("source")
    except (ValueError, KeyError, AttributeError):
        return None


def _prefix(file: Path) -> str:
    """How the names of unfinished files begin: with the machine, since a number of a process is one of its own."""
    return f".{file.name}.{socket.gethostname()}."


def _remove_leftovers(file: Path) -> None:
    """Unfinished files of processes of this machine that have ended without removing them."""
    for left in file.parent.glob(f"{glob.escape(_prefix(file))}*"):
        process = left.name.removeprefix(_prefix(file))
        if process.isdecimal() and not _is_alive(int(process)):
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there a signal of 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _room_for(image_places: list[Place]) -> int:
    """More bytes than the database takes: values are rounded up to pages, and the tree has some."""
    size = 1 << 22
    for place in image_places:
        size += _bytes.size_of(place) + PAGE + 512
    return size


def _write(image_places: list[Place], listing: Listing, file: Path, size: int) -> None:
    """The images, then what is needed to read them."""
    lmdb = _lmdb()
    # Without meminit the file would hold what lay in this process's memory
    database = lmdb.open(str(file), subdir=False, map_size=2 * size, lock=False, meminit=True)
    kept: list[int] = []
    checksums: list[int] = []
    try:
        starts = range(0, len(image_places), COMMIT)
        title = f"packing {listing.root}"
        with progress(len(image_places), title) as bar:
            for start in starts:
                with database.begin(write=True) as transaction:
                    for index, place in enumerate(image_places[start : start + COMMIT], start):
                        content = _content(place)
                        if content is None:
                            _print_left_out(listing.names[index])
                        else:
                            transaction.put(b"%08d" % len(kept), content, append=True)
                            kept.append(index)
                            checksums.append(zlib.crc32(content))
                        bar.update()
        if not kept:
            raise ValueError(
                f"none of the {len(image_places)} images in {listing.root} can be read"
            )
        with database.begin(write=True) as transaction:
            metadata = {"format": FORMAT, "images": len(kept), "classes": listing.classes}
            metadata["source"] = _stamp(listing)
            values = {CLASSES: json.dumps(metadata).encode()}
            if listing.labels is not None:
                values[LABELS] = np.array(listing.labels, "<i4")[kept].tobytes()
            values[CHECKSUMS] = np.array(checksums, "<u4").tobytes()
            no_seal_yet = bytes(hashlib.sha256().digest_size)
            for key, value in (values | {HASH: hash_of(values), SEAL: no_seal_yet}).items():
                transaction.put(key, value)
    except lmdb.Error as error:
        raise OSError(
            f"cannot write {file.parent}: {error}: make room, or give another --output_dir"
        ) from None
    finally:
        database.close()


def hash_of(values: Mapping[bytes, bytes | None]) -> bytes:
    """SHA-256 of what a file says of its images; b"" of a value that it does not have."""
    digest = hashlib.sha256()
    for key in (CLASSES, LABELS, CHECKSUMS):
        digest.update(hashlib.sha256(values.get(key) or b"").digest())
    return digest.digest()


def _seal(file: Path) -> None:
    """Write the hash of a whole file into it. OSError in one line."""
    offset, _ = Database(file).spans[SEAL]
    with open(file, "r+b") as opened:
        digest = seal_of(opened, offset)
        opened.seek(offset)
        opened.write(digest)
        opened.flush()
        os.fsync(opened.fileno())


def seal_of(file: BinaryIO, offset: int) -> bytes:
    """SHA-256 of a file but for the bytes from `offset` on where this hash is kept."""
    digest = hashlib.sha256()
    end = file.seek(0, os.SEEK_END)
    for start, stop in ((0, offset), (offset + digest.digest_size, end)):
        file.seek(start)
        while start < stop:
            piece = read_exactly(file, min(PIECE, stop - start))
            digest.update(piece)
            start += len(piece)
    return digest.digest()


def _print_left_out(name: str) -> None:
    tqdm.write(f"left out, not an image or damaged: {name}", file=sys.stderr)


def _content(place: Place) -> bytes | None:
    """The bytes of an image's file, None where they do not begin as an image does."""
    try:
        content = _bytes.content(place)
        Image.open(io.BytesIO(content)).close()
    except _bytes.UNREADABLE:
        return None
    return content


def _lmdb() -> Any:
    """The package, which only packing needs."""
    try:
        import lmdb
    except ModuleNotFoundError:
        raise ValueError(
            "packing needs the package lmdb (reading does not): pip install lmdb"
        ) from None
    return lmdb
