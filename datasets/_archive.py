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
from typing import BinaryIO

from . import _decode

ZIP = (".zip",)
TAR = (".tar",)
COMPRESSED = {
    ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.bz2": bz2.open, ".tbz": bz2.open, ".tbz2": bz2.open,
    ".tar.xz": lzma.open, ".txz": lzma.open,
}  # fmt: skip
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


def is_archive(path: Path) -> bool:
    """By its name; what it holds is seen when it is opened."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


class Inside:
    """A folder inside an archive, with the part of pathlib's interface that listings of folders use."""

    def __init__(self, file: Path, parts: tuple[str, ...] = ()):
        self.file, self.parts = file, parts

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else self.file.name

    @property
    def parent(self) -> "Inside":
        return Inside(self.file, self.parts[:-1])

    def __truediv__(self, name: str) -> "Inside":
        return Inside(
            self.file, (*self.parts, *(part for part in name.split("/") if part not in ("", ".")))
        )

    def __str__(self) -> str:
        return "/".join((str(self.file), *self.parts))

    def resolve(self) -> "Inside":
        return Inside(self.file.resolve(), self.parts)

    def is_dir(self) -> bool:
        return isinstance(self._node(), dict)

    def is_file(self) -> bool:
        return isinstance(self._node(), list)

    def exists(self) -> bool:
        return self._node() is not None

    def folders(self) -> list[str]:
        return [name for name, node in (self._node() or {}).items() if isinstance(node, dict)]

    def files(self) -> Iterator[str]:
        """Relative names of all files below."""
        yield from _below(self._node() or {}, "")

    def read_text(self) -> str:
        with tempfile.TemporaryDirectory() as work, _plain(self.file, Path(work)) as file:
            return _decode.source([str(file), *self._node()]).read().decode()

    def stamp(self, names: list[str]) -> bytes:
        """Of the archive as a whole: its size and modification time."""
        stat = os.stat(self.file)
        return b"\0".join([b"%d %d" % (stat.st_size, stat.st_mtime_ns), *map(os.fsencode, names)])

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[_decode.Place]]:
        with _plain(self.file, work) as file:
            yield [[str(file), *(self / name)._node()] for name in names]

    def _node(self) -> dict | list | None:
        """{name: node} of a folder, the place of a file, None of neither."""
        stat = os.stat(self.file)
        node = _tree(self.file, stat.st_size, stat.st_mtime_ns)
        for part in self.parts:
            node = node.get(part) if isinstance(node, dict) else None
        return node


def opened(file: Path) -> Inside:
    """The archive's images as a folder: the one top folder that holds all, if there is one. ValueError if damaged."""
    inside = Inside(file)
    while len(folders := _visible(inside.folders())) == 1 and (inside / folders[0]).folders():
        if any("/" not in name for name in inside.files()) or folders[0] in (
            "train",
            "test",
            "val",
            "valid",
        ):
            break
        inside = inside / folders[0]
    return inside


def _visible(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith((".", "__"))]


def _below(node: dict, prefix: str) -> Iterator[str]:
    for name, child in node.items():
        if isinstance(child, dict):
            yield from _below(child, f"{prefix}{name}/")
        else:
            yield prefix + name


@lru_cache(maxsize=4)
def _tree(file: Path, size: int, modified: int) -> dict:
    """Folders as dicts, files as places without the archive's name. Size and time are part of the key only."""
    tree: dict = {}
    try:
        for name, place in (
            _zip_members(file) if file.name.lower().endswith(ZIP) else _tar_members(file)
        ):
            _grow(tree, [part for part in name.split("/") if part not in ("", ".", "..")], place)
    except DAMAGE as error:
        raise ValueError(
            f"{file} cannot be read as an archive, it is damaged or none ({_said(error)})"
        ) from error
    return tree


def _grow(tree: dict, parts: list[str], place: list) -> None:
    node = tree
    for folder in parts[:-1]:
        node = node.setdefault(folder, {})
        if not isinstance(node, dict):
            raise ValueError(f"{folder} is a file and a folder")
    node[parts[-1]] = place


def _zip_members(file: Path) -> Iterator[tuple[str, list]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise ValueError("it is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    "its compression is not zip's usual one: pack it again by `zip -0 -r`"
                )
            compressed = member.compress_type == zipfile.ZIP_DEFLATED
            yield (
                member.filename,
                [
                    member.header_offset,
                    member.compress_size,
                    member.file_size,
                    compressed,
                    member.CRC,
                ],
            )


def _tar_members(file: Path) -> Iterator[tuple[str, list]]:
    with _decompressed(file) as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                yield member.name, [member.offset_data, member.size]


def _decompressed(file: Path) -> BinaryIO:
    """A tar file opened for reading, decompressed on the way if need be."""
    how = next(
        (how for ending, how in COMPRESSED.items() if file.name.lower().endswith(ending)), open
    )
    return how(file, "rb")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _plain(file: Path, work: Path | None) -> Iterator[Path]:
    """The file whose bytes places count: the archive, or of a compressed tar a copy in `work`, removed at the end."""
    if not file.name.lower().endswith(tuple(COMPRESSED)):
        yield file
        return
    if work is None:
        raise ValueError(
            f"{file} is compressed as a whole, so it cannot be streamed: pack it as .zip or .tar"
        )
    copy = work / "unpacked.tar"
    try:
        with _decompressed(file) as packed, open(copy, "wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
