"""Tables of images (.csv, .tsv, .jsonl, .parquet): their cells, and which columns hold images, labels and splits."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ._archive import Folder
from ._console import say_once
from ._endings import JSON_LINES, PARQUET, TSV
from ._rows import Rows, text

# Columns in order of preference; case and everything but letters and digits do not matter
IMAGES = (
    "file_path", "path", "file_name", "file", "fname", "image_path", "image_file", "image_name", "image", "img_path",
    "img_name", "img", "image_id", "img_id", "id", "name",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "class_name", "class_label", "target", "category", "label_name", "category_name",
    "class_id", "label_id", "category_id", "cls", "y",
)  # fmt: skip
SPLITS = ("split", "set", "subset", "partition")


class NoColumn(ValueError):
    """A stated column is not there. name: what states it, as label_column."""

    def __init__(self, name: str, line: str):
        super().__init__(f"--{name} {line}")
        self.name = name


@dataclass(frozen=True)
class Columns:
    """Which columns to read; None: those that have one of the usual names."""

    image: str | None = None
    label: str | None = None
    split: str | None = None

    @classmethod
    def of(
        cls,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
    ) -> "Columns":
        """Those that flags name."""
        return cls(image_column, label_column, split_column)

    def chosen(self, source: str, names: Sequence[str]) -> "Columns":
        """The same with names that are there.

        NoColumn where a stated one is not, ValueError where none can be the images'.
        """
        image = _stated("image_column", self.image, source, names) or first_of(IMAGES, names)
        if image is None:
            raise ValueError(
                f"{source}: none of its columns is known to name images ({_listed(names)}): --image_column NAME, "
                "or is its first line no header?"
            )
        label = _stated("label_column", self.label, source, names) or first_of(LABELS, names)
        if label is None and len(names) == 2:
            label = next(name for name in names if name != image)
        split = _stated("split_column", self.split, source, names) or first_of(SPLITS, names)
        return Columns(image, label, split if split not in (image, label) else None)

    def say(self, source: str, names: Sequence[str]) -> None:
        """A line about what is read."""
        parts = [f"images from column {self.image!r}"]
        if self.label is None:
            parts.append(f"no labels (--label_column names one of {_listed(names)})")
        else:
            parts.append(f"labels from {self.label!r}")
        if self.split is not None:
            parts.append(f"splits from {self.split!r}")
        say_once(f"{source}: {', '.join(parts)}")


@dataclass(frozen=True)
class Table:
    """The cells of a table, by column; all columns have a cell for each row."""

    source: str
    columns: dict[str, list[Any]]

    def rows(self, columns: Columns, split: bool = True) -> Rows:
        """What it says of images; split: also which are in which split. ValueError where that cannot be found in it."""
        names = list(self.columns)
        chosen = columns.chosen(self.source, names)
        if not split:
            chosen = replace(chosen, split=None)
        images = [text(cell) for cell in self.columns[str(chosen.image)]]
        labels = splits = None
        if chosen.label is not None:
            labels = [self._label(cell, chosen.label) for cell in self.columns[chosen.label]]
        if chosen.split is not None:
            splits = [text(cell) for cell in self.columns[chosen.split]]
        chosen.say(self.source, names)
        unlabelled = self._why_unlabelled(chosen) if labels is None else ""
        return Rows(self.source, images, labels, splits, unlabelled)

    def _why_unlabelled(self, chosen: Columns) -> str:
        """What to do about labels that are spread over columns; empty where they are not."""
        others = [name for name in self.columns if name not in (chosen.image, chosen.split)]
        switches = [name for name in others if _is_switch(self.columns[name])]
        if len(switches) < 2:
            return ""
        return (
            f": {len(switches)} of its columns hold 0 and 1 ({_listed(switches)}), a column for each class (one-hot): "
            "write the name of each image's class into one column called label"
        )

    def _label(self, cell: Any, column: str) -> str:
        try:
            return text(cell)
        except ValueError as error:
            raise ValueError(f"{self.source}, column {column!r}: {error}") from None


def _is_switch(cells: Sequence[Any]) -> bool:
    """Whether a column says of each row yes or no."""
    words = {str(cell).strip().lower() for cell in cells}
    return len(words) == 2 and words <= {"0", "1", "0.0", "1.0", "false", "true"}


def first_of(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that has the first of the known names."""
    for wanted in known:
        for name in names:
            if _plain(name) == _plain(wanted):
                return name
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _stated(flag: str, column: str | None, source: str, names: Sequence[str]) -> str | None:
    """The stated column. NoColumn where there is no such."""
    if column is not None and column not in names:
        line = f"{column}: {source} has no such column, it has {_listed(names)}"
        raise NoColumn(flag, line)
    return column


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")


# Reading


def read_table(file: Folder) -> Table:
    """ValueError in one line where it is damaged or none."""
    name = file.name.lower()
    if name.endswith(PARQUET):
        return Table(str(file), _parquet(file))
    try:
        content = (
            file.read_text(encoding="utf-8-sig") if isinstance(file, Path) else file.read_text()
        )
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not in UTF-8: save it in that encoding") from None
    if name.endswith(JSON_LINES):
        return Table(str(file), _json_lines(str(file), content))
    return Table(str(file), _separated(str(file), content.lstrip("\ufeff"), name))


def _separated(source: str, content: str, name: str) -> dict[str, list[str]]:
    """The columns of a file with a header line and a separator."""
    header, _, _ = content.partition("\n")
    separator = "\t" if name.endswith(TSV) else max(",;\t", key=header.count)
    try:
        lines = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator))
    except csv.Error as error:
        raise ValueError(f"{source} cannot be read as a table: {error}") from None
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise ValueError(f"{source} has no header line with names of columns, or no rows below it")
    names = [cell.strip() for cell in lines[0]]
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise ValueError(
                f"{source}: row {number} has {len(line)} cells, and the header {len(names)}: put cells that hold "
                f"{separator!r} into quotes"
            )
    return dict(zip(names, map(list, zip(*lines[1:], strict=True)), strict=True))


def _json_lines(source: str, content: str) -> dict[str, list[Any]]:
    """The columns of a file with a JSON object in each line; a key that a line lacks is None there."""
    objects: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{source}, line {number}: {line[:60]!r} is no JSON object")
        objects.append(row)
    names = dict.fromkeys(name for row in objects for name in row)
    return {name: [row.get(name) for row in objects] for name in names}


def _parquet(file: Folder) -> dict[str, list[Any]]:
    """The columns of a parquet file, those of images' bytes left out."""
    pa = pyarrow()
    if not isinstance(file, Path):
        raise ValueError(f"{file} is inside an archive: unpack it")
    try:
        with pa.parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            plain = [field.name for field in schema if not holds_bytes(field.type)]
            if len(plain) < len(schema):
                bytes_column = next(name for name in schema.names if name not in plain)
                raise ValueError(
                    f"{file} holds the images themselves (column {bytes_column!r}): it is --dataset parquet"
                )
            return opened.read(plain).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {one_line(error)}") from None


def holds_bytes(column_type: Any) -> bool:
    """Whether a column of this type of pyarrow's holds images: bytes, or structs {bytes, path}."""
    pa = pyarrow()
    if pa.types.is_struct(column_type):
        index = column_type.get_field_index("bytes")
        return index >= 0 and holds_bytes(column_type.field(index).type)
    return pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def pyarrow() -> Any:
    """The package with its module parquet. ValueError without it."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ValueError("parquet files need the package pyarrow: pip install pyarrow") from None
