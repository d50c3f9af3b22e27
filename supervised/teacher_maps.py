"""A teacher's maps of all training images, stored once in place of running it in every epoch.

A folder with one array (N, width, h, w) for each map, NAME.npy, and features.json, which says what they are, of which
images and network they were made, and how many images are done. It is written after the maps of each batch, so that
writing can go on where it was interrupted. N images in the order of the data set.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..augment.device import send
from .augmentation import TrainDraws
from .map_transform import follow

HEADER = "features.json"
TYPES = {"float16": torch.float16, "float32": torch.float32}
WORDS = {
    "dataset": "data set", "images": "number of images", "side": "stored images of", "pixels": "images with hash",
    "labels": "labels with hash", "teacher": "teacher with hash", "size": "images for the teacher of",
    "batch_norm": "batch norms by", "batch": "batches of", "maps": "maps", "dtype": "numbers in",
}  # fmt: skip


class Stored(NamedTuple):
    """One map: as models' maps, and its size."""

    width: int
    stride: int
    rows: int
    columns: int


def check_same(folder: Path, stored: dict, expected: dict, what: str) -> None:
    """ValueError that names what differs between a folder's header and what is expected of it."""
    differ = [
        f"{WORDS[name]} {stored.get(name)} (here {value})"
        for name, value in expected.items()
        if stored.get(name) != value
    ]
    if differ:
        raise ValueError(f"{folder} holds other features: {'; '.join(differ)}: {what}")


# Writing


class Writer:
    """`with Writer(...) as writer:` stores maps batch by batch, after those that an interrupted one has left there.

    fingerprint: images_print and teacher_print together. maps: of each the name and shape. ValueError where the folder
    holds other features.
    """

    def __init__(
        self, folder: str | Path, fingerprint: dict, maps: dict[str, Stored], dtype: str = "float16"
    ) -> None:
        self.folder, self.maps, self.dtype = Path(folder), maps, TYPES[dtype]
        self.images = fingerprint["images"]
        shapes = {name: list(found) for name, found in maps.items()}
        self.header = {**fingerprint, "dtype": dtype, "maps": shapes, "done": 0}
        found = _header(self.folder)
        if found:
            expected = {name: value for name, value in self.header.items() if name != "done"}
            check_same(self.folder, found, expected, "choose another --output")
            self.header = found
        self._files: list = []

    @property
    def done(self) -> int:
        """Images whose maps are stored."""
        return self.header["done"]

    @property
    def bytes(self) -> int:
        """Of all maps of all images."""
        return self.images * sum(self._row(found) for found in self.maps.values())

    def check_space(self) -> None:
        """OSError where the disk has no room for what is not yet written."""
        left = self.bytes * (self.images - self.done) // self.images
        existing = next(
            folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists()
        )
        free = shutil.disk_usage(existing).free
        if free < left:
            smaller = "fewer maps by --guide_teacher" + (
                " or --dtype float16" if self.dtype == torch.float32 else ""
            )
            raise OSError(
                f"{self.folder} needs {size(left)} and the disk has {size(free)} free: make room, choose another "
                f"--output, or {smaller}"
            )

    def __enter__(self) -> "Writer":
        """Make the files, or cut off what was written after the last whole batch."""
        self._attempt(self._open)
        return self

    def __exit__(self, *_) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def append(self, maps: Sequence[Tensor]) -> None:
        """The maps (B, width, h, w) of the next images. OSError in one line where the disk is full."""
        arrays = [self._array(name, values) for name, values in zip(self.maps, maps, strict=True)]
        self._attempt(lambda: self._append(arrays))

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, found in self.maps.items():
            path = self.folder / f"{name}.npy"
            file = open(path, "r+b" if self.done else "w+b")  # noqa: SIM115, __exit__ closes it
            self._files.append(file)
            kind = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(self.header["dtype"])),
                "fortran_order": False,
            }
            np.lib.format.write_array_header_1_0(
                file, kind | {"shape": (self.images, *_shape(found))}
            )
            file.truncate(file.seek(self.done * self._row(found), os.SEEK_CUR))

    def _append(self, arrays: list[np.ndarray]) -> None:
        for file, array in zip(self._files, arrays, strict=True):
            file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        self.header = self.header | {"done": self.done + len(arrays[0])}
        _replace(self.folder / HEADER, json.dumps(self.header, indent=1))

    def _array(self, name: str, values: Tensor) -> np.ndarray:
        stored = values.to(self.dtype)
        if not stored.isfinite().all():
            hint = (
                "" if self.dtype == torch.float32 else ", or too large for float16: --dtype float32"
            )
            raise ValueError(f"the teacher's map {name} has values that are not finite{hint}")
        return stored.cpu().contiguous().numpy()

    def _row(self, found: Stored) -> int:
        return found.width * found.rows * found.columns * self.dtype.itemsize

    def _attempt(self, work) -> None:
        try:
            work()
        except OSError as error:
            raise OSError(
                f"cannot write {self.folder}: {error.strerror}; {self.done} of {self.images} images are stored, and "
                "the same command goes on from there"
            ) from None


def size(count: int) -> str:
    """Bytes for people: 5.73 GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _replace(path: Path, text: str) -> None:
    """A file that is the new one or the old one, never half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


# Reading


@dataclass(frozen=True)
class Features:
    """Stored maps. As a network it has `maps` and `stages`, for supervised/pairs.py."""

    folder: Path
    header: dict
    maps: dict[str, Stored]
    stages: tuple[str, ...]
    arrays: dict[str, Tensor]  # (N, width, h, w) each, over memory maps

    @classmethod
    def open(cls, folder: str | Path, expected: dict) -> "Features":
        """`expected`: images_print and, where the teacher is known, teacher_print, of engine/fingerprint.py.

        FileNotFoundError where nothing is stored; ValueError where it is of other images or of another teacher, where
        it is not whole, or damaged.
        """
        folder = Path(folder)
        header = _header(folder)
        if not header:
            raise FileNotFoundError(
                f"no features at {folder}: make them by precompute.py --output {folder}"
            )
        check_same(
            folder,
            header,
            expected,
            "give the flags that they were made with, or make others by precompute.py",
        )
        if header["done"] < header["images"]:
            raise ValueError(
                f"{folder} holds {header['done']} of {header['images']} images: give the same command of precompute.py "
                "again, it goes on from there"
            )
        maps = {name: Stored(*shape) for name, shape in header["maps"].items()}
        arrays = {
            name: _array(folder / f"{name}.npy", header, found) for name, found in maps.items()
        }
        return cls(folder, header, maps, tuple(maps), arrays)

    def cut(
        self,
        index: Tensor,
        draws: TrainDraws,
        *,
        names: Sequence[str],
        source: tuple[int, int],
        size: int,
        padding: int,
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        """The maps of a batch, each float32 (B, width, h, w) on the device, cut and flipped as its images were.

        index: (B,) of the images in the data set; draws: of the augmentation of these B; the rest as `follow`'s.
        """
        maps = (send(self.arrays[name][index.cpu()], device) for name in names)
        return [follow(found, draws, source, size, padding) for found in maps]


def _header(folder: Path) -> dict | None:
    """What a folder says about its features, None where there are none."""
    path = folder / HEADER
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise ValueError(
            f"{path} is damaged: remove the folder and make the features anew"
        ) from None


def _array(path: Path, header: dict, found: Stored) -> Tensor:
    try:
        array = np.lib.format.open_memmap(
            path, "c"
        )  # pages of our own, were they written to: torch wants writable ones
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): make the features anew by precompute.py"
        ) from None
    if array.shape != (header["images"], *_shape(found)) or array.dtype != header["dtype"]:
        raise ValueError(
            f"{path} is not what {HEADER} beside it says: make the features anew by precompute.py"
        )
    return torch.from_numpy(array)


def _shape(found: Stored) -> tuple[int, int, int]:
    return found.width, found.rows, found.columns
