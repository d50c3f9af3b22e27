"""The file of `multicrop embed`: npz, safetensors or parquet, written from vectors that come some at a time.

N images, each with a vector (D,) or vectors (T, D).
"""

import json
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from multicrop.commands._predict_rows import utf8
from multicrop.datasets._table import pyarrow

SOME = 4096  # names or rows that are taken at a time
LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file


@dataclass(frozen=True)
class Content:
    """What is written. errors: by the number of an image why it cannot be read; its vector is not a number.

    labels: int64 (N,), None where nobody says. about: plain values on what the vectors are.
    """

    names: Sequence[str]
    errors: dict[int, str]
    shape: tuple[int, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    about: dict[str, Any]

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (len(self.names), *self.shape)

    def all_errors(self) -> Iterator[str]:
        """One for each image, empty for those that can be read."""
        return (self.errors.get(index, "") for index in range(len(self.names)))


# npz


def write_npz(out: BinaryIO, content: Content, vectors: Iterator[np.ndarray]) -> None:
    """Arrays features, files, errors and, where labels are known, labels and classes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _member(
            archive, "features", "<f4", content.full_shape, (some.tobytes() for some in vectors)
        )
        _words(archive, "files", content.names)
        _words(archive, "errors", list(content.all_errors()))
        if content.labels is not None:
            labels = content.labels.astype("<i8")
            _member(archive, "labels", "<i8", labels.shape, iter([labels.tobytes()]))
            _words(archive, "classes", content.classes)


def _member(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    parts: Iterator[bytes],
) -> None:
    """One array, of numpy's format."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(part)


def _words(archive: zipfile.ZipFile, name: str, words: Sequence[str]) -> None:
    """An array of text."""
    dtype = f"<U{max(map(len, words), default=1) or 1}"
    parts = (np.array(some, dtype).tobytes() for some in _some(words))
    _member(archive, name, dtype, (len(words),), parts)


def _some(items: Sequence[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while some := list(islice(remaining, SOME)):
        yield some


# safetensors


def write_safetensors(out: BinaryIO, content: Content, vectors: Iterator[np.ndarray]) -> None:
    """Tensors features and labels; the metadata has JSON in files, errors (by the number) and classes."""
    end = 4 * int(np.prod(content.full_shape))
    tensors = {"features": {"dtype": "F32", "shape": content.full_shape, "data_offsets": [0, end]}}
    if content.labels is not None:
        offsets = [end, end + 8 * len(content.labels)]
        tensors["labels"] = {
            "dtype": "I64",
            "shape": [len(content.labels)],
            "data_offsets": offsets,
        }
    errors = {index: utf8(reason) for index, reason in content.errors.items()}
    metadata = {
        "files": json.dumps([utf8(name) for name in content.names]),
        "errors": json.dumps(errors),
        "classes": json.dumps(content.classes),
        "about": json.dumps(content.about),
    }
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > LARGEST_HEADER:
        raise ValueError(
            f"{len(content.names)} names are too much for a safetensors file: write .npz or .parquet"
        )
    out.write(struct.pack("<Q", len(header)) + header)
    for some in vectors:
        out.write(some.data)
    if content.labels is not None:
        out.write(content.labels.astype("<i8").tobytes())


# parquet


def write_parquet(out: BinaryIO, content: Content, vectors: Iterator[np.ndarray]) -> None:
    """Columns file, features (a list of T x D numbers, row by row), error and, where labels are known, label."""
    pa = pyarrow()
    width = int(np.prod(content.shape))
    vector = pa.list_(pa.float32(), width)
    columns = [("file", pa.string()), ("features", vector), ("error", pa.string())]
    if content.labels is not None:
        columns.append(("label", pa.string()))
    about = {"shape": json.dumps(content.shape), "about": json.dumps(content.about)}
    schema = pa.schema(columns, metadata=about)
    names, start = iter(content.names), 0
    with pa.parquet.ParquetWriter(out, schema) as writer:
        for some in vectors:
            stop = start + len(some)
            flat = pa.array(np.ascontiguousarray(some).reshape(-1))
            arrays = [
                pa.array([utf8(name) for name in islice(names, len(some))]),
                pa.FixedSizeListArray.from_arrays(flat, width),
                pa.array([_text(content.errors.get(i)) for i in range(start, stop)], pa.string()),
            ]
            if content.labels is not None:
                labels = content.labels[start:stop].tolist()
                arrays.append(pa.array([content.classes[label] for label in labels], pa.string()))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            start = stop


def _text(reason: str | None) -> str | None:
    return None if reason is None else utf8(reason)


WRITERS = {"npz": write_npz, "safetensors": write_safetensors, "parquet": write_parquet}
