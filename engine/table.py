"""The metrics of a run as a table for spreadsheets: metrics.csv, a column for each name, a row for each of theirs."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import atomic_write

TABLE = "metrics.csv"


class Table:
    """Written when the run closes, or is stopped: a later row may bring a new column."""

    def __init__(self, folder: Path, rows: Callable[[], list[dict[str, Any]]]):
        """rows: all that has been measured so far."""
        self._path, self._rows = folder / TABLE, rows

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """The rows have it."""

    def close(self) -> None:
        rows = self._rows()
        columns: dict[str, None] = {}
        for row in rows:
            columns |= dict.fromkeys(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self._path) as file:
            file.write(text.getvalue().encode())
