"""Where the values of an LMDB file lie, found by reading its tree of pages ourselves.

LMDB's own library maps the file and trusts it: a damaged one ends the process by a signal. This reader checks every
bound, needs no library, and yields places that the decoding processes read like any others. Layout: lmdb.h and mdb.c
of LMDB 0.9, data version 1, 64-bit little-endian: pages of a B+ tree, two of them meta pages of which the newer counts.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._decode import Place

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = 16  # bytes of a page before its nodes, or before the value that it begins
BRANCH, LEAF, META = 1, 2, 8  # flags of pages
BIG, SUB, DUPLICATES = (
    1,
    2,
    4,
)  # flags of nodes: the value has pages of its own; it is a database; it is many values
Span = tuple[int, int]  # offset and length in the file


class Damaged(ValueError):
    """The pages contradict each other."""


class Database:
    """An open LMDB file: `spans` says where the value of each key lies, `read` gives its bytes."""

    def __init__(self, file: Path):
        self.file = file
        try:
            with open(file, "rb") as opened:
                self.bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self.spans: dict[bytes, Span] = dict(_entries(self.bytes))
        except (
            struct.error,
            OverflowError,
            ValueError,
        ) as error:  # an empty file cannot be mapped: ValueError
            raise ValueError(
                f"{file} is damaged or no LMDB file ({error}): copy or build it again"
            ) from None

    def read(self, key: bytes) -> bytes | None:
        offset, length = self.spans.get(key, (0, 0))
        return self.bytes[offset : offset + length] if key in self.spans else None


class Records:
    """The images of a database by the decimal numbers of `spans`, as a listing's root."""

    def __init__(self, file: Path, spans: dict[str, Span]):
        self.file, self.spans, self.name = file, spans, file.name

    def __str__(self) -> str:
        return str(self.file)

    def resolve(self) -> "Records":
        return Records(self.file.resolve(), self.spans)

    def stamp(self, names: list[str]) -> bytes:
        stat = os.stat(self.file)
        return b"%d %d %d" % (stat.st_size, stat.st_mtime_ns, len(names))

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[Place]]:
        yield [[str(self.file), *self.spans[name]] for name in names]


def _entries(data: mmap.mmap) -> Iterator[tuple[bytes, Span]]:
    """Key and span of every value, in the order of keys. Damaged, or struct.error past the end."""
    page_size, root, count = _newest_meta(data)
    found, open_pages, seen = 0, [root] if count else [], 0
    while open_pages:
        at, seen = open_pages.pop() * page_size, seen + 1
        if seen * page_size > len(data):
            raise Damaged("its pages go in a circle")
        flags, lower = struct.unpack_from("<10xHH", data, at)
        inside = max(lower - HEADER, 0) // 2
        nodes = [at + offset for offset in struct.unpack_from(f"<{inside}H", data, at + HEADER)]
        if flags & BRANCH:
            open_pages += [_child(data, node) for node in reversed(nodes)]
        elif flags & LEAF:
            found += len(nodes)
            yield from (_leaf(data, node, page_size) for node in nodes)
        else:
            raise Damaged(f"page {at // page_size} is of no known kind")
    if found != count:
        raise Damaged(f"{found} entries of {count} are there")


def _newest_meta(data: mmap.mmap) -> tuple[int, int, int]:
    """Page size, root page and number of entries of the main database."""
    metas = []
    for at in (0, struct.unpack_from("<I", data, HEADER + 24)[0]):
        magic, version, page_size = struct.unpack_from("<II16xI", data, at + HEADER)
        entries, root, transaction = struct.unpack_from("<QQ8xQ", data, at + HEADER + 24 + 48 + 32)
        if magic == MAGIC and version == VERSION and 512 <= page_size <= 65536:
            metas.append((transaction, page_size, root, entries))
    if not metas:
        raise Damaged("its first pages are not those of LMDB")
    _, page_size, root, entries = max(metas)
    return page_size, root, entries


def _child(data: mmap.mmap, node: int) -> int:
    low, high, top = struct.unpack_from("<HHH", data, node)
    return low | high << 16 | top << 32


def _leaf(data: mmap.mmap, node: int, page_size: int) -> tuple[bytes, Span]:
    low, high, flags, key_length = struct.unpack_from("<HHHH", data, node)
    length, at = low | high << 16, node + 8 + key_length
    if flags & (SUB | DUPLICATES):
        raise Damaged("it holds databases inside, or several values for a key")
    if flags & BIG:
        at = struct.unpack_from("<Q", data, at)[0] * page_size + HEADER
    if at + length > len(data):
        raise Damaged("it ends before its last value")
    return bytes(data[node + 8 : node + 8 + key_length]), (at, length)
