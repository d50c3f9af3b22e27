"""Write a listing as an LMDB file of the format that lmdb.py reads."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import _decode
from ._folders import Listing
from ._places import places

COMMIT = 1000  # images per transaction
PAGE = 4096


def pack(listing: Listing, file: Path, form: str) -> int:
    """Copy the images' files, as they are, into `file`; the number of bytes. It appears when it is complete.

    Images without a readable header are named and left out. FileExistsError where there is one, OSError without room,
    ValueError without the package lmdb or without an image.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already: remove it, or give another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with places(listing.root.resolve(), listing.names, file.parent) as found:
            size = _needed(found, len(listing.names))
            free = shutil.disk_usage(file.parent).free
            if size > free:
                raise OSError(
                    f"{file} needs {size / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: make room"
                )
            _write(found, listing, work, size, form)
        os.replace(work, file)
    finally:
        work.unlink(missing_ok=True)
    return file.stat().st_size


def _needed(found: list, count: int) -> int:
    """More than the database takes: values are rounded up to pages, and the tree has some."""
    sizes = (
        os.stat(place).st_size if isinstance(place, str) else max(place[2:4]) for place in found
    )
    return sum(sizes) + count * (PAGE + 512) + (1 << 22)


def _write(found: list, listing: Listing, file: Path, size: int, form: str) -> None:
    database = _lmdb().open(str(file), subdir=False, map_size=2 * size, lock=False, meminit=False)
    kept = []
    try:
        for start in tqdm(
            range(0, len(found), COMMIT),
            f"packing {listing.root}",
            unit="k images",
            file=sys.stderr,
        ):
            with database.begin(write=True) as transaction:
                for index in range(start, min(start + COMMIT, len(found))):
                    content = _content(found[index])
                    if content is None:
                        tqdm.write(
                            f"left out, not an image or damaged: {listing.names[index]}",
                            file=sys.stderr,
                        )
                        continue
                    transaction.put(b"%08d" % len(kept), content, append=True)
                    kept.append(index)
        if not kept:
            raise ValueError(f"none of the {len(found)} images in {listing.root} can be read")
        with database.begin(write=True) as transaction:
            about = {"format": form, "images": len(kept), "classes": listing.classes}
            transaction.put(b"about", json.dumps(about).encode())
            if listing.labels is not None:
                transaction.put(b"labels", np.array(listing.labels, "<i4")[kept].tobytes())
    finally:
        database.close()


def _content(place) -> bytes | None:
    """The bytes of an image's file, None where they do not begin as an image does."""
    try:
        content = (
            Path(place).read_bytes() if isinstance(place, str) else _decode.source(place).getvalue()
        )
        Image.open(io.BytesIO(content)).close()
    except _decode.UNREADABLE:
        return None
    return content


def _lmdb():
    try:
        import lmdb
    except ModuleNotFoundError:
        raise ValueError(
            "packing needs the package lmdb (reading does not): pip install lmdb"
        ) from None
    return lmdb
