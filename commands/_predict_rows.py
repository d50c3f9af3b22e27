"""The rows of `multicrop predict` as csv, JSON lines or parquet."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from multicrop.datasets._table import pyarrow

UNKNOWN = "unknown"
ROW_GROUP = 10_000  # rows of a parquet file that are written at a time


class Row(NamedTuple):
    """One image. top: the likeliest classes and their probabilities; error: why there are none, else None."""

    file: str
    label: str | None
    probability: float | None
    top: list[tuple[str, float]]
    error: str | None


class RowMaker:
    """From what a part stores of an image, [class numbers, probabilities] or an error, to its row; counts them."""

    def __init__(self, classes: Sequence[str], unknown_below: float | None):
        self.classes, self.unknown_below = classes, unknown_below
        self.counts = {"unreadable": 0, "unknown": 0}

    def rows(self, files: Iterable[str], stored: Iterable[Any]) -> Iterator[Row]:
        for file, row in zip(files, stored, strict=True):
            yield self.row(file, row)

    def row(self, file: str, stored: Any) -> Row:
        if isinstance(stored, str):
            self.counts["unreadable"] += 1
            return Row(file, None, None, [], stored)
        numbers, probabilities = stored
        top = [(self.classes[n], p) for n, p in zip(numbers, probabilities, strict=True)]
        label, probability = top[0]
        if self.unknown_below is not None and probability < self.unknown_below:
            self.counts["unknown"] += 1
            label = UNKNOWN
        return Row(file, label, probability, top, None)


class CsvRows:
    """file,class,probability,(class_1,probability_1,...),error; the top classes only where there are several."""

    def __init__(self, out: BinaryIO, topk: int):
        self._text = io.TextIOWrapper(
            out, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
        )
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._topk = topk if topk > 1 else 0
        names = []
        for place in range(1, self._topk + 1):
            names += [f"class_{place}", f"probability_{place}"]
        self._csv.writerow(["file", "class", "probability", *names, "error"])

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            cells: list[Any] = []
            for label, probability in row.top[: self._topk]:
                cells += [label, shown(probability)]
            cells += [""] * (2 * self._topk - len(cells))
            probability_cell = shown(row.probability)
            label_cell = "" if row.label is None else row.label
            self._csv.writerow([row.file, label_cell, probability_cell, *cells, row.error or ""])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


class JsonRows:
    """{"file", "class", "probability", "top": [[class, probability], ...] where there are several, "error"}."""

    def __init__(self, out: BinaryIO, topk: int):
        self._out, self._several = out, topk > 1

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            cells: dict[str, Any] = {
                "file": row.file,
                "class": row.label,
                "probability": row.probability,
            }
            if self._several:
                cells["top"] = [list(pair) for pair in row.top]
            cells["error"] = row.error
            self._out.write((json.dumps(cells) + "\n").encode())

    def close(self) -> None:
        self._out.flush()


class ParquetRows:
    """Columns file, class, probability, error, and where there are several top_classes and top_probabilities."""

    def __init__(self, out: BinaryIO, topk: int):
        pa = pyarrow()
        columns = {"file": pa.string(), "class": pa.string(), "probability": pa.float64()}
        self._several = topk > 1
        if self._several:
            columns |= {
                "top_classes": pa.list_(pa.string()),
                "top_probabilities": pa.list_(pa.float64()),
            }
        self._schema = pa.schema([*columns.items(), ("error", pa.string())])
        self._writer = pa.parquet.ParquetWriter(out, self._schema)

    def write(self, rows: Iterable[Row]) -> None:
        rows = iter(rows)
        while group := list(islice(rows, ROW_GROUP)):
            columns: dict[str, list] = {
                "file": [utf8(row.file) for row in group],
                "class": [row.label for row in group],
                "probability": [row.probability for row in group],
                "error": [row.error and utf8(row.error) for row in group],
            }
            if self._several:
                columns["top_classes"] = [[name for name, _ in row.top] for row in group]
                columns["top_probabilities"] = [[p for _, p in row.top] for row in group]
            self._writer.write_table(pyarrow().table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


WRITERS: dict[str, Any] = {"csv": CsvRows, "jsonl": JsonRows, "parquet": ParquetRows}


def shown(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.8g}"


def utf8(name: str) -> str:
    """A name whose bytes are no UTF-8 with those bytes spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()
