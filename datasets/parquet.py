"""Parquet files that hold the images themselves: a column of bytes, or of structs {bytes, path} as Hugging Face has it.

Splits are told by the names of files or folders (train-00000-of-00002.parquet, test.parquet, validation/0.parquet), or
by a column.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ._archive import Folder
from ._cache import cache_folder
from ._data_set import DataSet
from ._embedded import Embedded, content, file_identity, named
from ._endings import PARQUET
from ._reader import Reader
from ._rows import (
    Parts,
    Rows,
    by_split,
    split_of_file,
    text,
)
from ._table import IMAGES, Columns, NoColumn, first_of, holds_bytes, one_line, pyarrow

BATCH = 64  # rows that are read at a time


def recognise(root: Folder, **columns: str) -> str | None:
    """By a first file that has a column of bytes."""
    if not isinstance(root, Path):
        return None
    try:
        file = _files(root)[0]
    except (ValueError, FileNotFoundError):
        return None
    fields = _schema(file)
    return "parquet" if any(holds_bytes(field.type) for field in fields) else None


# Files


def _files(root: Path) -> list[Path]:
    """The parquet files, in sorted order. FileNotFoundError or ValueError when there are none."""
    if root.is_file():
        if not root.name.lower().endswith(PARQUET):
            raise ValueError(f"{root} is a file, and no .parquet")
        beside = sorted(path for path in root.parent.iterdir() if path.suffix == root.suffix)
        return (
            [path for path in beside if split_of_file(path, path)]
            if split_of_file(root, root)
            else [root]
        )
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    files = sorted(path for path in root.rglob("*") if path.name.lower().endswith(PARQUET))
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"there are no .parquet files in {root}")
    return files


def _schema(file: Path) -> Any:
    """The columns of a file. ValueError when it is damaged or none."""
    with _opened(file) as opened:
        return opened.schema_arrow


def _opened(file: Path) -> Any:
    """The file, for reading. ValueError when it is damaged or none."""
    pa = pyarrow()
    try:
        return pa.parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {one_line(error)}") from None


# Rows


def parts(root: str | Path, columns: Columns) -> Parts:
    """The rows of all splits. root: a file, or a folder with files anywhere below."""
    path = Path(root).expanduser()
    files = _files(path)
    schema = _schema(files[0])
    columns = _image_columns(str(path), schema, columns)
    rows = _rows(path, files, columns)
    embedded = _embedded(path, files, str(columns.image), rows.names)
    return Parts(embedded, by_split(rows), _class_names(schema, columns.label))


def _image_columns(source: str, schema: Any, columns: Columns) -> Columns:
    """The columns, of images one of bytes. ValueError where there is none."""
    of_bytes = [field.name for field in schema if holds_bytes(field.type)]
    if columns.image is not None and columns.image not in of_bytes:
        there = ", ".join(of_bytes) or "none"
        raise NoColumn("image_column", f"{columns.image}: in {source} columns of bytes are {there}")
    if not of_bytes:
        names = ", ".join(schema.names)
        raise ValueError(
            f"{source} has no column of bytes (it has {names}); a table of file names is --dataset table"
        )
    image = columns.image or first_of(IMAGES, of_bytes) or of_bytes[0]
    chosen = Columns(image, columns.label, columns.split).chosen(source, schema.names)
    chosen.say(source, schema.names)
    return chosen


def _rows(root: Path, files: list[Path], columns: Columns) -> Rows:
    """Of all files, one after the other. An image's name is its file's and the row there."""
    names: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    for file in files:
        count, cells = _cells(file, columns)
        folder = root if root.is_dir() else root.parent
        names += [f"{file.relative_to(folder)}:{row}" for row in range(count)]
        if columns.label is not None:
            labels += cells[columns.label]
        if columns.split is not None:
            splits += cells[columns.split]
        else:
            splits += [split_of_file(file, root) or "train"] * count
    return Rows(str(root), names, labels or None, splits)


def _cells(file: Path, columns: Columns) -> tuple[int, dict[str, list[str]]]:
    """The number of rows of a file, and its cells of labels and splits. ValueError where it has other columns."""
    wanted = [name for name in (columns.label, columns.split) if name is not None]
    with _opened(file) as opened:
        schema = opened.schema_arrow
        missing = sorted({*wanted, str(columns.image)} - set(schema.names))
        if missing:
            raise ValueError(f"{file} has no column {missing[0]}, which the first file has")
        cells = {}
        for name in wanted:
            cells[name] = [text(cell) for cell in opened.read([name]).column(0).to_pylist()]
        classes = _class_names(schema, columns.label)
        if classes and columns.label is not None:
            cells[columns.label] = named(cells[columns.label], classes, str(file))
        return opened.metadata.num_rows, cells


def _class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
    """The classes in label order that Hugging Face's datasets writes into the file; None where there are none."""
    try:
        metadata = json.loads(schema.metadata[b"huggingface"])
        return tuple(metadata["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):  # another program wrote it
        return None


# Bytes


def _embedded(root: Path, files: list[Path], image: str, names: list[str]) -> Embedded:
    """The images as the root of a listing."""
    rows = {name: row for row, name in enumerate(names)}
    identity = b"%s %s" % (image.encode(), file_identity(files))
    return Embedded(
        root, rows, lambda wanted: _contents(files, image, wanted), identity, cache_folder
    )


def _contents(files: list[Path], image: str, rows: Sequence[int]) -> Iterator[bytes | str | None]:
    """The images of these rows, which ascend, counted over all files. ValueError where a file is damaged."""
    pa = pyarrow()
    first = 0
    for file in files:
        with _opened(file) as opened:
            try:
                for group in range(opened.num_row_groups):
                    count = opened.metadata.row_group(group).num_rows
                    inside = [row - first for row in rows if first <= row < first + count]
                    if inside:
                        yield from _of_group(opened, group, image, inside)
                    first += count
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} is damaged: {one_line(error)}") from None


def _of_group(
    opened: Any, group: int, image: str, rows: Sequence[int]
) -> Iterator[bytes | str | None]:
    """The images of these rows of a row group."""
    wanted = set(rows)
    first = 0
    for batch in opened.iter_batches(BATCH, row_groups=[group], columns=[image]):
        cells = batch.column(0)
        for row in range(len(cells)):
            if first + row in wanted:
                yield content(cells[row].as_py())
        first += len(cells)


READER = Reader(parts)

DATASET = DataSet(
    title="your own images in parquet files",
    layout="`.parquet` files with a column of images' bytes: one, or `train-*.parquet` and `test-*.parquet`",
    load=READER.load,
    listing=READER.listing,
    recognise=recognise,
    validation=READER.validation,
    unsplit=READER.unsplit,
    own=True,
)
