"""What a run has read of its streamed images: the checksum of each file as it was first read, compared ever after.

The file is a series of blocks, each with its own checksum: what images there are, when their files were last written,
and after each save the images that were first read since. So it is added to, 16 bytes an image in all, and a killed
process leaves half a block at most.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from torch import Tensor

from . import ranks
from .files import atomic_write, write_errors

FILE = "streamed_images.bin"
START = b"multicrop images 1\n"
HEAD = struct.Struct("<4sQI")  # kind, bytes, and CRC-32 of these two and the bytes
IMAGES, TIMES, READ = b"imgs", b"time", b"read"
REMEDY = "a run that goes on keeps what is whole of it, and compares the other images from then on"


class Streamed(Protocol):
    """What is asked of images that are streamed, a datasets/_stream.py Streamed."""

    def __len__(self) -> int: ...

    def name_of(self, number: int) -> str: ...

    def file_times(self, start: int, stop: int) -> Tensor: ...

    def compare_with(self, checksums: np.ndarray) -> None: ...

    def new_checksums(self) -> tuple[np.ndarray, np.ndarray]: ...


class ImageRecord:
    """All ranks make and write it together; rank 0 alone holds all and has the file."""

    def __init__(self, folder: Path, images: Streamed, files: str, read: int | None):
        """files: the hash of the images' names and sizes. read: how many images the run that goes on has read.

        None: a run that begins here, or is of a version without a record.
        """
        self.path, self._images = folder / FILE, images
        start, stop = (len(images) * rank // ranks.world_size() for rank in _own_and_next())
        times = ranks.gather(images.file_times(start, stop), to=0).numpy()
        # On rank 0 what any rank has read, as the file has it
        self._checksums: np.ndarray | None = None
        if ranks.rank() == 0:
            self._checksums = self._stored(times, files, read)
        checksums = ranks.broadcast_object(lambda: self._checksums)
        assert checksums is not None
        images.compare_with(checksums.copy())

    def write(self) -> int:
        """Add what was first read since the last call; how many images have been read, on rank 0.

        ValueError on all ranks where two of them read different files of one image.
        """
        parts = ranks.gather_objects(self._images.new_checksums(), to=0)
        changed = ranks.broadcast_object(lambda: self._take(parts))
        if changed is not None:
            raise ValueError(
                f"image {self._images.name_of(changed)} has changed while this run went on: two processes have read "
                "different files. Put back the earlier file and give the same command again"
            )
        return 0 if self._checksums is None else int(np.count_nonzero(self._checksums))

    def _take(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> int | None:
        """The number of an image that is not the same in all parts; the file is written where there is none."""
        assert self._checksums is not None
        new = []
        for numbers, checksums in parts:
            before = self._checksums[numbers]
            other = numbers[(before != 0) & (before != checksums)]
            if len(other):
                return int(other[0])
            self._checksums[numbers] = checksums
            new.append(numbers[before == 0])
        numbers = np.concatenate(new)
        if len(numbers):
            with write_errors(self.path), open(self.path, "ab") as file:
                _write_block(file, READ, _pair(numbers, self._checksums))
                file.flush()
                os.fsync(file.fileno())
        return None

    def _stored(self, times: np.ndarray, files: str, read: int | None) -> np.ndarray:
        """The checksums that the file holds, uint32 (N,), on rank 0. What is lost or cannot be compared is said."""
        checksums = np.zeros(len(times), np.uint32)
        stored_times = times
        if read is not None:
            blocks, _ = _read(self.path)
            if blocks and json.loads(blocks[0][1]) == _described(len(times), files):
                for kind, content in blocks:
                    if kind == TIMES:
                        stored_times = np.frombuffer(content, "<i8")
                    elif kind == READ:
                        numbers, values = np.frombuffer(content, "<u4").reshape(2, -1)
                        checksums[numbers] = values
            self._say_lost(read - int(np.count_nonzero(checksums)), read)
            self._say_changed(stored_times != times, checksums == 0)
        with atomic_write(self.path) as file:
            file.write(START)
            description = json.dumps(_described(len(times), files))
            _write_block(file, IMAGES, description.encode())
            _write_block(file, TIMES, stored_times.astype("<i8").tobytes())
            _write_block(file, READ, _pair(checksums.nonzero()[0], checksums))
        return checksums

    def _say_lost(self, lost: int, read: int) -> None:
        if lost > 0:
            ranks.log(
                f"{self.path}: the checksums of {lost} of {read} images that were read before are lost; these images "
                "are compared from now on"
            )

    def _say_changed(self, changed: np.ndarray, unread: np.ndarray) -> None:
        """changed, unread: masks (N,) of images."""
        numbers = changed.nonzero()[0]
        if len(numbers):
            compared = int((changed & ~unread).sum())
            ranks.log(
                f"{len(numbers)} of {len(changed)} image files were written or copied since this run began, e.g. "
                f"{self._images.name_of(int(numbers[0]))}: {compared} are compared when they are read again, "
                f"{len(numbers) - compared} were not read before and are taken as they are"
            )


def verify(path: Path) -> str:
    """What was compared. ValueError where it is damaged."""
    _, whole = _read(path)
    if not whole:
        raise ValueError(f"{path} is damaged: {REMEDY}")
    return "the CRC-32 of each block"


def _own_and_next() -> tuple[int, int]:
    return ranks.rank(), ranks.rank() + 1


def _described(images: int, files: str) -> dict:
    return {"images": images, "files": files}


def _pair(numbers: np.ndarray, checksums: np.ndarray) -> bytes:
    return np.stack([numbers, checksums[numbers]]).astype("<u4").tobytes()


def _write_block(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(HEAD.pack(kind, len(content), _checksum(kind, content)))
    file.write(content)


def _checksum(kind: bytes, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(kind + len(content).to_bytes(8, "little")))


def _read(path: Path) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Kind and content of each block up to the first that is damaged, and whether there is none."""
    try:
        with open(path, "rb") as file:
            if file.read(len(START)) != START:
                return [], False
            blocks: list[tuple[bytes, bytes]] = []
            for block in _blocks(file, path.stat().st_size):
                if block is None:
                    return blocks, False
                blocks.append(block)
            return blocks, [kind for kind, _ in blocks[:3]] == [IMAGES, TIMES, READ]
    except FileNotFoundError:
        return [], False


def _blocks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes] | None]:
    """Each, then None where one is damaged."""
    while head := file.read(HEAD.size):
        kind, length, checksum = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0, 1)
        content = file.read(length) if file.tell() + length <= size else b""
        if kind not in (IMAGES, TIMES, READ) or checksum != _checksum(kind, content):
            yield None
            return
        yield kind, content
