"""Zip and tar files of images, read where they lie: a listing of names, and the place of each member's bytes."""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Union

from . import _bytes
from ._bytes import Place
from ._split_names import is_split_name

ZIP = (".zip",)
TAR = (".tar",)
GZIP = (".tar.gz", ".tgz")
BZIP2 = (".tar.bz2", ".tbz", ".tbz2")
XZ = (".tar.xz", ".txz")
COMPRESSED = (*GZIP, *BZIP2, *XZ)
ENDINGS = (*ZIP, *TAR, *COMPRESSED)
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
)
# What a folder holds: folders, and places without the archive's name
Tree = dict[str, Union["Tree", list]]


def is_archive(path: Path) -> bool:
    """By its name; what it holds is read when it is opened."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


class ArchiveFolder:
    """A folder inside an archive, with the part of pathlib's interface that listings of folders use."""

    def __init__(self, file: Path, parts: tuple[str, ...] = ()):
        self.file, self.parts = file, parts

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else self.file.name

    @property
    def parent(self) -> "ArchiveFolder":
        return ArchiveFolder(self.file, self.parts[:-1])

    def __truediv__(self, name: str) -> "ArchiveFolder":
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return ArchiveFolder(self.file, (*self.parts, *parts))

    def __str__(self) -> str:
        return "/".join((str(self.file), *self.parts))

    def resolve(self) -> "ArchiveFolder":
        return ArchiveFolder(self.file.resolve(), self.parts)

    def is_dir(self) -> bool:
        return isinstance(self._node(), dict)

    def is_file(self) -> bool:
        return isinstance(self._node(), list)

    def exists(self) -> bool:
        return self._node() is not None

    def folders(self) -> list[str]:
        """Names of the folders inside this one."""
        return [name for name, node in self._children().items() if isinstance(node, dict)]

    def own_files(self) -> list[str]:
        """Names of the files in this folder itself."""
        return [name for name, node in self._children().items() if isinstance(node, list)]

    def files(self) -> Iterator[str]:
        """Relative names of all files below."""
        yield from _files_below(self._children(), "")

    def read_text(self) -> str:
        """The content of a text file."""
        with tempfile.TemporaryDirectory() as work, self.places([""], Path(work)) as (place,):
            return _bytes.content(place).decode()

    def stamp(self, names: list[str]) -> bytes:
        """Of the archive as a whole: its size and modification time."""
        stat = os.stat(self.file)
        size_and_time = b"%d %d" % (stat.st_size, stat.st_mtime_ns)
        return b"\0".join([size_and_time, *map(os.fsencode, names)])

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[Place]]:
        """What the decoder opens for each name."""
        with _uncompressed(self.file, work) as file:
            yield [[str(file), *(self / name)._place()] for name in names]

    def _place(self) -> list:
        """The place of a file, without the archive's name."""
        node = self._node()
        assert isinstance(node, list)  # it was listed as a file
        return node

    def _children(self) -> Tree:
        """What the folder holds; nothing where it is none."""
        node = self._node()
        return node if isinstance(node, dict) else {}

    def _node(self) -> Tree | list | None:
        """What a folder holds, the place of a file, None of neither."""
        stat = os.stat(self.file)
        node: Tree | list | None = _tree(self.file, stat.st_size, stat.st_mtime_ns)
        for part in self.parts:
            node = node.get(part) if isinstance(node, dict) else None
        return node


Folder = Path | ArchiveFolder


def open_archive(file: Path) -> ArchiveFolder:
    """The archive's images as a folder: the one top folder that holds all, if there is one. ValueError if damaged."""
    folder = ArchiveFolder(file)
    while True:
        inner = [name for name in folder.folders() if not name.startswith((".", "__"))]
        if len(inner) != 1 or is_split_name(inner[0]):
            return folder
        if not (folder / inner[0]).folders():  # its files are one class
            return folder
        if any("/" not in name for name in folder.files()):
            return folder
        folder = folder / inner[0]


def _files_below(folder: Tree, prefix: str) -> Iterator[str]:
    """Relative names, with the prefix before each."""
    for name, child in folder.items():
        if isinstance(child, dict):
            yield from _files_below(child, f"{prefix}{name}/")
        else:
            yield prefix + name


@lru_cache(maxsize=4)
def _tree(file: Path, size: int, modified: int) -> Tree:
    """What the archive holds. Size and time are part of the key only."""
    tree: Tree = {}
    try:
        is_zip = file.name.lower().endswith(ZIP)
        members = _zip_members(file) if is_zip else tar_members(file)
        for name, place in members:
            if (
                is_zip
            ):  # whose names have / only; some programs on Windows write theirs nevertheless
                name = name.replace("\\", "/")
            parts = [part for part in name.split("/") if part not in ("", ".", "..")]
            _insert(tree, parts, place)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as an archive, it is damaged or none ({reason})"
        ) from error
    return tree


def _insert(tree: Tree, parts: list[str], place: list) -> None:
    """Put a file's place into the tree, and the folders above it."""
    folder = tree
    for name in parts[:-1]:
        child = folder.setdefault(name, {})
        if not isinstance(child, dict):
            raise ValueError(f"{name} is a file and a folder")
        folder = child
    folder[parts[-1]] = place


def _zip_members(file: Path) -> Iterator[tuple[str, list]]:
    """Name and place, without the archive's name, of every file."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir() or member.filename.endswith("\\"):
                continue
            if member.flag_bits & 1:
                raise ValueError("it is encrypted")
            compressed = member.compress_type == zipfile.ZIP_DEFLATED
            if not compressed and member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    "its compression is not zip's usual one: pack it again by `zip -0 -r`"
                )
            sizes = [member.compress_size, member.file_size]
            yield member.filename, [member.header_offset, *sizes, compressed, member.CRC]


def tar_members(file: Path) -> Iterator[tuple[str, list]]:
    """Name and place, without the archive's name, of every file; a place counts uncompressed bytes."""
    with _decompress(file) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                yield member.name, [member.offset_data, member.size]


def _decompress(file: Path) -> BinaryIO | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    """A tar file opened for reading, decompressed on the way if need be."""
    name = file.name.lower()
    if name.endswith(GZIP):
        return gzip.open(file, "rb")
    if name.endswith(BZIP2):
        return bz2.open(file, "rb")
    if name.endswith(XZ):
        return lzma.open(file, "rb")
    return open(file, "rb")


@contextmanager
def _uncompressed(file: Path, work: Path | None) -> Iterator[Path]:
    """The file whose bytes places count: the archive, or of a compressed tar a copy in `work`, removed at the end."""
    if not file.name.lower().endswith(COMPRESSED):
        yield file
        return
    if work is None:
        raise ValueError(
            f"{file} is compressed as a whole, so it cannot be streamed: pack it as .zip or .tar"
        )
    copy = work / "unpacked.tar"
    try:
        with _decompress(file) as packed, open(copy, "wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
