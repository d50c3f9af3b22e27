"""Images that lie inside the rows of parquet or Arrow files: their bytes are copied out, as they are, to be decoded.

To decode them into the cache a copy lives as long as that takes. Streamed images need one for good, which lies in the
cache's folder until the files change.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ._bytes import Place
from ._moving import take_name

# Of rows by number, in ascending order: the bytes of an image's file, or its path, or None where there is no image
Contents = Callable[[Sequence[int]], Iterator[bytes | str | None]]
BYTES, SPANS = "images.bin", "spans.json"
Span = str | tuple[int, int]  # the path of a file, or offset and length in the copy
NOTHING = (0, 0)  # an empty span is no image, and is named as unreadable


class Embedded:
    """The images of some rows, as a listing's root.

    rows: the row of each image's name. identity: changes when a file does. copies: the folder of copies for good.
    """

    def __init__(
        self,
        path: Path,
        rows: dict[str, int],
        contents: Contents,
        identity: bytes,
        copies: Callable[[], Path],
    ):
        self.path, self.name = path, path.name
        self._rows, self._contents, self._identity = rows, contents, identity
        self._copies = copies

    def __str__(self) -> str:
        return str(self.path)

    def resolve(self) -> "Embedded":
        path = self.path.resolve()
        return Embedded(path, self._rows, self._contents, self._identity, self._copies)

    def stamp(self, names: list[str]) -> bytes:
        """Changes when the files or the rows do."""
        return b"\0".join([self._identity, *map(os.fsencode, names)])

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[Place]]:
        """What the decoder opens for each name. work: where a copy of the bytes may lie meanwhile."""
        if work is None:
            entry = self._copied(names)
            spans = json.loads((entry / SPANS).read_text())
            yield [_place(entry / BYTES, span) for span in spans]
            return
        copy = work / f"{BYTES}.{os.getpid()}"
        try:
            spans = self._copy(names, copy)
            yield [_place(copy, span) for span in spans]
        finally:
            copy.unlink(missing_ok=True)

    def _copied(self, names: list[str]) -> Path:
        """The entry of the cache that holds the bytes of these images, made if it is not there."""
        folder = self._copies()
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}-bytes-{_digest(os.fsencode(str(self)))[:8]}"
        entry = folder / f"{stem}-{_digest(self.stamp(names))[:24]}"
        with filelock.FileLock(folder / f"{stem}.lock"):
            if not (entry / SPANS).is_file():
                self._build(entry, stem, names)
        return entry

    def _build(self, entry: Path, stem: str, names: list[str]) -> None:
        """Copy into a temporary folder and rename it. Copies of files that have changed since are removed."""
        current = _digest(self._identity)[:8]
        for marked in entry.parent.glob(f"{glob.escape(stem)}-*/identity"):
            if marked.read_text() != current:
                shutil.rmtree(marked.parent, ignore_errors=True)
        work = entry.parent / f"{stem}-building"
        shutil.rmtree(work, ignore_errors=True)  # left by a killed process
        work.mkdir()
        try:
            spans = self._copy(names, work / BYTES)
            (work / SPANS).write_text(json.dumps(spans))
            (work / "identity").write_text(current)
            take_name(work, entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _copy(self, names: list[str], file: Path) -> list[Span]:
        """Write the bytes of the images side by side; offset and length of each, or the path of a file of its own."""
        rows = [self._rows[name] for name in names]
        ascending = sorted(set(rows))
        spans: dict[int, Span] = {}
        with open(file, "wb") as out:
            for row, image in zip(ascending, self._contents(ascending), strict=True):
                if isinstance(image, str):
                    spans[row] = os.path.join(self.path.parent, image)
                elif image:
                    spans[row] = (out.tell(), len(image))
                    out.write(image)
                else:
                    spans[row] = NOTHING
        return [spans[row] for row in rows]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _place(file: Path, span: Span) -> Place:
    return span if isinstance(span, str) else [str(file), *span]


def file_identity(files: Sequence[Path]) -> bytes:
    """Changes when one of the files does: their names, sizes and modification times."""
    lines = []
    for file in files:
        stat = os.stat(file)
        lines.append(b"%s\0%d\0%d" % (os.fsencode(file), stat.st_size, stat.st_mtime_ns))
    return b"\n".join(lines)


def content(cell: Any) -> bytes | str | None:
    """The image of a cell: bytes, or {bytes, path} as Hugging Face has it."""
    if isinstance(cell, dict):
        return cell.get("bytes") or cell.get("path")
    return cell


def named(labels: list[str], classes: Sequence[str], source: str) -> list[str]:
    """The classes that labels count; none where a label is negative. ValueError where there is no such class."""
    names = []
    for label in labels:
        number = int(label or -1)
        if number >= len(classes):
            raise ValueError(f"{source} has label {number}, and there are {len(classes)} classes")
        names.append(classes[number] if number >= 0 else "")
    return names
