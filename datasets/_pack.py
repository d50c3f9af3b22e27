"""Write image files as LMDB files: the format of our own that the data set lmdb reads.

Keys 00000000, 00000001, ... hold the files' bytes, "labels" int32 little-endian numbers where there are labels, "about"
JSON with the format, the number of images and the classes.
"""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import _bytes
from ._bytes import Place
from ._console import progress
from ._folders import Listing, check_no_empty_class
from ._places import places

FORMAT = "multicrop images 1"
CLASSES, LABELS = b"about", b"labels"  # keys
COMMIT = 1000  # images per transaction
PAGE = 4096


def pack(listings: dict[str, Listing], folder: Path) -> dict[str, int]:
    """Write {split: listing} as folder/<split>.lmdb; the number of bytes of each. Errors are those of pack_file."""
    return {
        split: pack_file(images, folder / f"{split}.lmdb") for split, images in listings.items()
    }


def pack_file(listing: Listing, file: Path) -> int:
    """Copy the images' files, as they are, into `file`; the number of bytes. It appears when it is complete.

    Images without a readable header are named and left out. FileExistsError where there is one, OSError without room,
    ValueError without the package lmdb or without an image.
    """
    check_no_empty_class(listing)
    if file.exists():
        raise FileExistsError(f"{file} is there already: remove it, or give another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with places(listing.root.resolve(), listing.names, file.parent) as image_places:
            size = _room_for(image_places)
            free = shutil.disk_usage(file.parent).free
            if size > free:
                raise OSError(
                    f"{file} needs {size / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: make room"
                )
            _write(image_places, listing, work, size)
        os.replace(work, file)
    finally:
        work.unlink(missing_ok=True)
    return file.stat().st_size


def _room_for(image_places: list[Place]) -> int:
    """More bytes than the database takes: values are rounded up to pages, and the tree has some."""
    size = 1 << 22
    for place in image_places:
        content = os.stat(place).st_size if isinstance(place, str) else max(place[2:4])
        size += content + PAGE + 512
    return size


def _write(image_places: list[Place], listing: Listing, file: Path, size: int) -> None:
    """The images, then what is needed to read them."""
    database = _lmdb().open(str(file), subdir=False, map_size=2 * size, lock=False, meminit=False)
    kept: list[int] = []
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
                        bar.update()
        if not kept:
            raise ValueError(
                f"none of the {len(image_places)} images in {listing.root} can be read"
            )
        with database.begin(write=True) as transaction:
            metadata = {"format": FORMAT, "images": len(kept), "classes": listing.classes}
            transaction.put(CLASSES, json.dumps(metadata).encode())
            if listing.labels is not None:
                transaction.put(LABELS, np.array(listing.labels, "<i4")[kept].tobytes())
    finally:
        database.close()


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
