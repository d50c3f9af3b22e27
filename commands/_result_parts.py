"""Rows of a result as they come: each rank appends those of its images to a file, and rank 0 joins them in order.

What an interrupted command has written stays, and the same command goes on behind it.
"""

import errno
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multicrop.engine import ranks
from multicrop.engine.files import write_errors

TAKEN = 4096  # vectors that are read at a time
VECTORS = ".vectors"  # how the file beside the rows ends
OF_IDENTITY = {
    "names": "images",
    "takes": "--block, --stage or --tokens",
    "ranks": "numbers of processes",
    **{name: f"--{name}" for name in ("topk", "tta", "normalize", "precision", "image_size")},
}
"""What a message calls a part of an identity, where it is not by its name."""


def names_hash(names: Sequence[str]) -> str:
    """What tells these images from others, and their order."""
    digest = hashlib.blake2b(digest_size=8)
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def check_file(output: str, read: Iterable[str]) -> None:
    """ValueError or OSError where a file of this name cannot be written, before anything is read.

    read: what the command reads, and so may not replace.
    """
    path = Path(output)
    if path.exists() and any(os.path.exists(name) and path.samefile(name) for name in read):
        raise ValueError(f"--output {output} is what is read: give the result another name")
    if path.is_dir():
        raise ValueError(f"--output {output} is a folder: give a file in it")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def say_replaced(path: Path) -> None:
    """A line about a result of an earlier command, for those about to write the new one."""
    if path.exists():
        ranks.log(f"{path} is there already: it is replaced when the new one is whole")


def done_by_all(images: int) -> int:
    """How many images all ranks have done, from those of this rank."""
    return sum(ranks.gather_objects(images))


class Part:
    """One rank's stretch of the images: a line of JSON for each, and beside it a vector where there are any.

    identity: of plain values; what was begun with another one is begun again. width: numbers of a vector. other: what
    of the identity was another one in rows that `open` begins again; None where there are none.
    """

    def __init__(self, output: Path, rank: int, world: int, images: int, width: int = 0):
        ending = ".partial" if world == 1 else f".partial.{rank}"
        self.rows_file = output.with_name(f"{output.name}{ending}")
        self.vectors_file = output.with_name(f"{output.name}{ending}{VECTORS}")
        self.output, self.width = output, width
        self.start = images * rank // world
        self.stop = images * (rank + 1) // world
        self.done = 0
        self.other: tuple[str, ...] | None = None

    def open(self, identity: dict[str, Any]) -> None:
        """Go on behind what is there, or begin. OSError where nothing can be written."""
        with write_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            head = (json.dumps(identity) + "\n").encode()
            self.other = self._differences(identity)
            lines, end = self._whole_lines(head)
            if self.width and lines:
                self.vectors_file.touch()
                lines = min(lines, self.vectors_file.stat().st_size // self._bytes)
                end = self._end_of(lines)
            mode = "r+b" if lines else "w+b"
            self._rows = open(self.rows_file, mode)  # noqa: SIM115  # until close()
            self._rows.truncate(end)
            self._rows.seek(end)
            if not lines:
                self._rows.write(head)
            if self.width:
                self._vectors = open(self.vectors_file, mode)  # noqa: SIM115
                self._vectors.truncate(lines * self._bytes)
                self._vectors.seek(lines * self._bytes)
            self.done = lines

    @property
    def _bytes(self) -> int:
        return 4 * self.width

    @property
    def complete(self) -> bool:
        return self.done == self.stop - self.start

    def append(self, rows: Sequence[Any], vectors: np.ndarray | None = None) -> None:
        """Plain values, one for each image, and float32 (B, width)."""
        with write_errors(self.output):
            if vectors is not None:
                self._vectors.write(np.ascontiguousarray(vectors, np.float32).data)
                self._vectors.flush()
            lines = [json.dumps(row, separators=(",", ":")) for row in rows]
            self._rows.write(("\n".join(lines) + "\n").encode())
            self._rows.flush()
        self.done += len(rows)

    def close(self) -> None:
        self._rows.close()
        if self.width:
            self._vectors.close()

    def rows(self) -> Iterator[Any]:
        """All that was appended."""
        with open(self.rows_file, "rb") as file:
            file.readline()
            for line in file:
                yield json.loads(line)

    def vectors(self) -> Iterator[np.ndarray]:
        """The same of the vectors, float32 (some, width) each."""
        with open(self.vectors_file, "rb") as file:
            while content := file.read(TAKEN * self._bytes):
                yield np.frombuffer(content, np.float32).reshape(-1, self.width)

    def remove(self) -> None:
        for path in (self.rows_file, self.vectors_file):
            path.unlink(missing_ok=True)

    def _differences(self, identity: dict[str, Any]) -> tuple[str, ...] | None:
        """What of the identity is another in rows that are there; None where it is the same, or there are no rows."""
        if not self.rows_file.exists():
            return None
        with open(self.rows_file, "rb") as file:
            head, has_rows = file.readline(), bool(file.readline())
        if not has_rows:
            return None
        try:
            before = dict(json.loads(head))
        except (ValueError, TypeError):  # nothing of ours
            return ()
        names = sorted({*before, *identity})
        differ = tuple(name for name in names if before.get(name) != identity.get(name))
        return differ or None

    def _whole_lines(self, head: bytes) -> tuple[int, int]:
        """How many rows are there, of the same identity, and where the last one ends."""
        if not self.rows_file.exists():
            return 0, 0
        with open(self.rows_file, "rb") as file:
            if file.readline() != head:
                return 0, 0
            lines, end = 0, len(head)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines, end = lines + 1, end + len(line)
        return (lines, end) if lines else (0, 0)

    def _end_of(self, lines: int) -> int:
        """Where so many rows end; 0 for none."""
        if not lines:
            return 0
        with open(self.rows_file, "rb") as file:
            for _ in range(lines + 1):
                file.readline()
            return file.tell()


def own_part(output: Path, images: int, width: int, identity: dict[str, Any]) -> Part:
    """This rank's, opened; that it goes on is said, or why it does not."""
    part = Part(output, ranks.rank(), ranks.world_size(), images, width)
    part.open({**identity, "ranks": ranks.world_size()})
    if part.other is not None:
        differ = ", ".join(OF_IDENTITY.get(name, name) for name in part.other)
        ranks.log(
            f"{part.rows_file} is of an interrupted run with other {differ or 'content'}: begun again"
        )
    if ranks.rank() == 0:
        drop_other_parts(output, ranks.world_size())
    if part.done:
        ranks.log(f"going on after {part.done} images of an interrupted run for {output}")
    return part


def drop_other_parts(output: Path, world: int) -> None:
    """Remove what a run of another number of processes has left, which is said."""
    own = {Part(output, rank, world, 0).rows_file.name for rank in range(world)}
    other = []
    for path in output.parent.glob(f"{glob.escape(output.name)}.partial*"):
        name = path.name.removesuffix(VECTORS)
        if name not in own and re.fullmatch(r"partial(\.\d+)?", name[len(output.name) + 1 :]):
            other.append(path)
    for path in other:
        path.unlink(missing_ok=True)
    if other:
        ranks.log(
            f"{other[0]} is of an interrupted run of another number of processes: begun again"
        )


def all_parts(output: Path, images: int, width: int = 0) -> list[Part]:
    """Those of all ranks, in the order of the images. FileNotFoundError where this rank does not see one."""
    world = ranks.world_size()
    parts = [Part(output, rank, world, images, width) for rank in range(world)]
    missing = [part.rows_file for part in parts if not part.rows_file.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} of another process is not there: several machines need one folder that all of them see"
        )
    return parts
