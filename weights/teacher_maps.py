"""A teacher's maps of all training images, stored once in place of running it in every epoch.

A folder with one array (N, width, h, w) for each map, NAME.npy, and features.json, its header, which says what they
are, of which images and network they were made, how many images are done, the checksums of each batch's maps and of how
the arrays' files begin, and its own hash. It is written after the maps of each batch, so that writing can go on where
it was interrupted. N images in the order of the data set.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.files import atomic_write

HEADER = "features.json"
TYPES = {"float16": torch.float16, "float32": torch.float32}
DESCRIPTIONS = {
    "dataset": "data set", "images": "number of images", "side": "stored images of", "pixels": "images with hash",
    "labels": "labels with hash", "teacher": "teacher with hash", "size": "images for the teacher of",
    "batch_norm": "batch norms by", "batch": "batches of", "resample": "images resampled", "maps": "maps",
    "dtype": "numbers in",
}  # fmt: skip
BOOKKEEPING = {"done", "batches", "beginnings"}  # what else a header has


class MapShape(NamedTuple):
    """One map: its channels, the pixels of the image from one place to the next, and its places."""

    width: int
    stride: int
    rows: int
    columns: int

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """Of one image's map."""
        return self.width, self.rows, self.columns

    @property
    def values(self) -> int:
        """Numbers of one image's map."""
        return self.width * self.rows * self.columns


def check_header(
    folder: Path, header: dict[str, Any], expected: dict[str, Any], advice: str
) -> None:
    """ValueError that names what differs between a folder's header and what is expected of it."""
    differences = []
    for name, value in expected.items():
        if header.get(name) != value:
            differences.append(f"{DESCRIPTIONS[name]} {header.get(name)} (here {value})")
    if differences:
        raise ValueError(f"{folder} holds other features: {'; '.join(differences)}: {advice}")


# Writing


class Writer:
    """`with Writer(...) as writer:` stores maps batch by batch, after those that an interrupted one has left there.

    fingerprint: of the data set and of the teacher together, by engine/fingerprint.py. maps: the shape of each by name.
    ValueError where the folder holds other features.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: dict[str, Any],
        maps: dict[str, MapShape],
        dtype: str = "float16",
    ) -> None:
        self.folder, self.maps, self.dtype = Path(folder), maps, TYPES[dtype]
        self.images: int = fingerprint["images"]
        shapes = {name: list(shape) for name, shape in maps.items()}
        expected = {**fingerprint, "dtype": dtype, "maps": shapes}
        header = read_header(self.folder)
        if header is None:
            header = {**expected, "done": 0, "batches": []}
        else:
            check_header(self.folder, header, expected, "choose another --output_dir")
        self.header = header
        self._files: list[BinaryIO] = []

    @property
    def done(self) -> int:
        """Images whose maps are stored."""
        return self.header["done"]

    @property
    def has_checksums(self) -> bool:
        return "batches" in self.header

    @property
    def bytes(self) -> int:
        """Of all maps of all images."""
        per_image = sum(shape.values for shape in self.maps.values()) * self.dtype.itemsize
        return self.images * per_image

    def check_space(self) -> None:
        """OSError where the disk has no room for what is not yet written."""
        needed = self.bytes * (self.images - self.done) // self.images
        existing = self.folder
        if not existing.exists():
            existing = next(path for path in self.folder.absolute().parents if path.exists())
        free = shutil.disk_usage(existing).free
        if free >= needed:
            return
        smaller = "fewer maps by --guide_teacher"
        if self.dtype == torch.float32:
            smaller += " or --dtype float16"
        raise OSError(
            f"{self.folder} needs {format_bytes(needed)} and the disk has {format_bytes(free)} free: make room, choose "
            f"another --output, or {smaller}"
        )

    def __enter__(self) -> "Writer":
        """Make the files, or cut off what was written after the last whole batch."""
        with ExitStack() as opened, self._errors_in_one_line():
            opened.callback(self._close)
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, shape in self.maps.items():
                self._open(self.folder / f"{name}.npy", shape)
            opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def append(self, maps: Sequence[Tensor]) -> None:
        """The maps (B, width, h, w) of the next images. OSError in one line where the disk is full."""
        arrays = []
        for name, values in zip(self.maps, maps, strict=True):
            arrays.append(self._to_array(name, values))
        with self._errors_in_one_line():
            for file, array in zip(self._files, arrays, strict=True):
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
            sums = {
                name: zlib.crc32(array.data) for name, array in zip(self.maps, arrays, strict=True)
            }
            batch = {"images": len(arrays[0]), "checksums": sums}
            # Folders of older versions have no checksums
            batches = {"batches": [*self.header["batches"], batch]} if self.has_checksums else {}
            self.header = {**self.header, "done": self.done + len(arrays[0]), **batches}
            with atomic_write(self.folder / HEADER) as file:
                file.write(_header_text(self.header).encode())

    def _open(self, path: Path, shape: MapShape) -> None:
        """Make an array's file with its header, or open it, and go to the end of what is done."""
        if self.done and not path.exists():
            raise ValueError(_lost(self.folder, path))
        file = open(path, "r+b" if self.done else "w+b")  # noqa: SIM115, __exit__ closes it
        self._files.append(file)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        array_header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.header["dtype"])),
            "fortran_order": False,
            "shape": (self.images, *shape.array_shape),
        }
        np.lib.format.write_array_header_1_0(file, array_header)
        if self.has_checksums:
            begins = file.tell()
            file.seek(0)
            checksum = zlib.crc32(file.read(begins))
            self.header.setdefault("beginnings", {})[path.stem] = [begins, checksum]
        done_bytes = self.done * shape.values * self.dtype.itemsize
        end = file.seek(done_bytes, os.SEEK_CUR)
        if self.done and size < end:
            raise ValueError(_lost(self.folder, path))
        file.truncate(end)

    def _to_array(self, name: str, values: Tensor) -> np.ndarray:
        values = values.to(self.dtype)
        if not values.isfinite().all():
            message = f"the teacher's map {name} has values that are not finite"
            if self.dtype != torch.float32:
                message += ", or too large for float16: --dtype float32"
            raise ValueError(message)
        return values.cpu().contiguous().numpy()

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"cannot write {self.folder}: {reason}; {self.done} of {self.images} images are stored, and "
                "the same command goes on from there"
            ) from None


def _lost(folder: Path, path: Path) -> str:
    return f"{path} has lost maps that {HEADER} says are done: remove {folder} and make the features anew"


def format_bytes(count: int) -> str:
    """Bytes for people: 5.73 GB."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB"


# Reading


@dataclass(frozen=True)
class StoredMaps:
    """The maps of a folder. As a network it has `maps` and `stages`, for supervised/pairs.py."""

    folder: Path
    header: dict[str, Any]
    maps: dict[str, MapShape]
    stages: tuple[str, ...]
    arrays: dict[str, Tensor]  # (N, width, h, w) each, over memory maps

    @classmethod
    def open(cls, folder: str | Path, expected: dict[str, Any]) -> "StoredMaps":
        """`expected`: the data set's fingerprint and, where the teacher is known, its own, by engine/fingerprint.py.

        FileNotFoundError where nothing is stored; ValueError where it is of other images or of another teacher, where
        it is not whole, or damaged.
        """
        folder = Path(folder)
        header = read_header(folder)
        if header is None:
            raise FileNotFoundError(
                f"no features at {folder}: make them by multicrop precompute --output {folder}"
            )
        advice = "give the flags that they were made with, or make others by multicrop precompute"
        check_header(folder, header, expected, advice)
        if header["done"] < header["images"]:
            raise ValueError(
                f"{folder} holds {header['done']} of {header['images']} images: give the same command of "
                "multicrop precompute again, it goes on from there"
            )
        maps, arrays = {}, {}
        for name, shape in header["maps"].items():
            maps[name] = MapShape(*shape)
            arrays[name] = _read_array(folder / f"{name}.npy", header, maps[name])
        _check_sums(folder, header, arrays)
        return cls(folder, header, maps, tuple(maps), arrays)


def _header_text(header: dict[str, Any]) -> str:
    """A header as it is written."""
    return json.dumps({**header, "hash": _hash_of(header)}, indent=1)


def _hash_of(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header).encode()).hexdigest()


def read_header(folder: Path) -> dict[str, Any] | None:
    """What a folder says about its features, None where there are none. ValueError where it is damaged."""
    path = folder / HEADER
    try:
        text = path.read_text()
        header = json.loads(text)
        if not header:
            return None
        stated = header.pop("hash", None)  # folders of older versions have none
        if stated is not None and _header_text(header) != text:
            raise ValueError
        if not {*header} <= {*DESCRIPTIONS, *BOOKKEEPING}:
            raise ValueError  # a name has become another
        return header
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError):
        raise ValueError(
            f"{path} is damaged: remove the folder and make the features anew"
        ) from None


def _read_array(path: Path, header: dict[str, Any], shape: MapShape) -> Tensor:
    """A map of all images over the file, of which nothing is read yet."""
    try:
        # "c": pages of our own, were they written to, since torch wants writable ones
        array = np.lib.format.open_memmap(path, "c")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): make the features anew by multicrop precompute"
        ) from None
    expected_shape = (header["images"], *shape.array_shape)
    if array.shape != expected_shape or array.dtype != header["dtype"]:
        raise ValueError(
            f"{path} is not what {HEADER} beside it says: make the features anew by multicrop precompute"
        )
    return torch.from_numpy(array)


def _check_sums(folder: Path, header: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """ValueError where a batch's maps are not those that were written."""
    start = 0
    for batch in header.get("batches", []):
        end = start + batch["images"]
        for name, array in arrays.items():
            if zlib.crc32(array[start:end].numpy().data) != batch["checksums"][name]:
                raise ValueError(
                    f"{folder / name}.npy is damaged in the maps of images {start} to {end - 1}: make the features "
                    "anew by multicrop precompute"
                )
        start = end
