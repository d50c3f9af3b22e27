"""Where the values of an LMDB file lie, found by reading its tree of pages ourselves.

LMDB's own library maps the file and trusts it: a damaged one ends the process by a signal. This reader checks every
bound, needs no library, and yields places that the decoding processes read like any others. Layout: lmdb.h and mdb.c
of LMDB 0.9, data version 1, 64-bit little-endian: pages of a B+ tree, two of them meta pages of which the newer counts.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ._bytes import Place

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = 16  # bytes of a page before its nodes, or before the value that it begins
BRANCH, LEAF = 1, 2  # flags of pages
# Flags of nodes: the value has pages of its own; it is a database; it is many values.
BIG, SUB, DUPLICATES = 1, 2, 4
Span = tuple[int, int]  # offset and length in the file


class Damaged(ValueError):
    """The pages contradict each other."""


class Database:
    """An open LMDB file: `spans` says where the value of each key lies, database[key] is its bytes."""

    def __init__(self, file: Path):
        self.file = file
        try:
            with open(file, "rb") as opened:
                self.bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self.spans: dict[bytes, Span] = dict(_entries(self.bytes))
        except (struct.error, OverflowError, ValueError) as error:  # ValueError: the file is empty
            raise ValueError(
                f"{file} is damaged or no LMDB file ({error}): copy or build it again"
            ) from None

    def __getitem__(self, key: bytes) -> bytes:
        offset, length = self.spans[key]
        return self.bytes[offset : offset + length]

    def read(self, key: bytes) -> bytes | None:
        """The bytes of a key's value, None where there is no such key."""
        return self[key] if key in self.spans else None


class Records:
    """The images of a database by the decimal numbers of `spans`, each with its CRC-32 where that is known."""

    def __init__(self, file: Path, spans: Mapping[str, tuple[int, ...]]):
        self.file, self.spans, self.name = file, spans, file.name

    def __str__(self) -> str:
        return str(self.file)

    def resolve(self) -> "Records":
        return Records(self.file.resolve(), self.spans)

    def stamp(self, names: list[str]) -> bytes:
        """Changes when the file does."""
        stat = os.stat(self.file)
        return b"%d %d %d" % (stat.st_size, stat.st_mtime_ns, len(names))

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[Place]]:
        """What the decoder opens for each name."""
        yield [[str(self.file), *self.spans[name]] for name in names]


def _entries(data: mmap.mmap) -> Iterator[tuple[bytes, Span]]:
    """Key and span of every value, in the order of keys. Damaged, or struct.error past the end."""
    page_size, root, count = _newest_meta(data)
    open_pages = [root] if count else []
    entries = pages = 0
    while open_pages:
        page = open_pages.pop()
        pages += 1
        if pages * page_size > len(data):
            raise Damaged("its pages go in a circle")
        flags, nodes = _page(data, page * page_size)
        if flags & BRANCH:
            for node in reversed(nodes):  # the first child is popped first
                open_pages.append(_child(data, node))
        elif flags & LEAF:
            entries += len(nodes)
            for node in nodes:
                yield _leaf(data, node, page_size)
        else:
            raise Damaged(f"page {page} is of no known kind")
    if entries != count:
        raise Damaged(f"{entries} entries of {count} are there")


def _page(data: mmap.mmap, start: int) -> tuple[int, list[int]]:
    """Flags of a page, and where its nodes begin."""
    flags, lower = struct.unpack_from("<10xHH", data, start)
    count = max(lower - HEADER, 0) // 2
    offsets = struct.unpack_from(f"<{count}H", data, start + HEADER)
    return flags, [start + offset for offset in offsets]


def _newest_meta(data: mmap.mmap) -> tuple[int, int, int]:
    """Page size, root page and number of entries of the main database."""
    metas = []
    # The page size, as the first meta page has it
    (second,) = struct.unpack_from("<I", data, HEADER + 24)
    for start in (0, second):
        magic, version, page_size = struct.unpack_from("<II16xI", data, start + HEADER)
        main = start + HEADER + 24 + 48 + 32
        entries, root, transaction = struct.unpack_from("<QQ8xQ", data, main)
        if magic == MAGIC and version == VERSION and 512 <= page_size <= 65536:
            metas.append((transaction, page_size, root, entries))
    if not metas:
        raise Damaged("its first pages are not those of LMDB")
    _, page_size, root, entries = max(metas)
    return page_size, root, entries


def _child(data: mmap.mmap, node: int) -> int:
    """The page that a node of a branch points to."""
    low, high, top = struct.unpack_from("<HHH", data, node)
    return low | high << 16 | top << 32


def _leaf(data: mmap.mmap, node: int, page_size: int) -> tuple[bytes, Span]:
    """Key and span of a leaf's node."""
    low, high, flags, key_length = struct.unpack_from("<HHHH", data, node)
    if flags & (SUB | DUPLICATES):
        raise Damaged("it holds databases inside, or several values for a key")
    key_end = node + 8 + key_length
    start, length = key_end, low | high << 16
    if flags & BIG:
        (page,) = struct.unpack_from("<Q", data, key_end)
        start = page * page_size + HEADER
    if start + length > len(data):
        raise Damaged("it ends before its last value")
    return bytes(data[node + 8 : key_end]), (start, length)
