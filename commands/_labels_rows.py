"""The rows of `multicrop labels`: one for each network, method, share of labels and draw, kept as they come."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from torch import Tensor

from multicrop.config.labels import Draws
from multicrop.engine import ranks, seeds
from multicrop.engine.files import append_line
from multicrop.supervised.label_draws import draw_labels

ROWS = "rows.jsonl"
SCORES = ("top1", "balanced_accuracy")
PRETRAINED, FINETUNE = "pretrained", "finetune"
Row = dict[str, Any]


class Cell(NamedTuple):
    """What a row measures."""

    network: str
    method: str
    percent: float
    draw: int

    def labelled(self, labels: Tensor) -> Tensor:
        """Labels (N,) -> indices of the images whose labels are used; finetune --label_draw takes the same."""
        return draw_labels(labels, self.percent, seeds.generator(self.draw, "labels"))


class Job(NamedTuple):
    """A row to be: what its numbers depend on, and what measures them."""

    cell: Cell
    settings: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


def cells(draws: Draws, network: str, method: str) -> Iterator[Cell]:
    """All shares and draws of a method; of all labels there is one draw, but training varies with its seed."""
    for percent in sorted(set(draws.fractions)):
        count = draws.draws if percent < 100 or method == FINETUNE else 1
        for number in range(draws.draw_seed, draws.draw_seed + count):
            yield Cell(network, method, percent, number)


class Rows:
    """A file of rows, one JSON line each, to which every measurement is added at once.

    A row says by a hash of what it was measured: weights, images and settings. Rows of others may be in the file, are
    not taken for these, and stay.
    """

    def __init__(self, path: Path):
        self.path = path
        self.stored = ranks.broadcast_object(lambda: _read(path))

    def get(self, cell: Cell, settings: dict[str, Any]) -> Row | None:
        """What has been measured of it by these settings."""
        wanted = {**cell._asdict(), "identity": identity_of(settings)}
        for row in self.stored:
            if wanted.items() <= row.items():
                return row
        return None

    def add(self, cell: Cell, settings: dict[str, Any], numbers: dict[str, Any]) -> Row:
        row = {**cell._asdict(), **numbers, "identity": identity_of(settings)}
        self.stored.append(row)
        if ranks.rank() == 0:
            append_line(self.path, json.dumps(row))
        return row


def identity_of(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(path: Path) -> list[Row]:
    """The rows of a file, without what an interrupted call left of its last line."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each network and method the shares of labels, ascending, with the mean and deviation of their draws.

    The deviation is that of a sample (n - 1); None where there is one draw.
    """
    found = []
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in rows):
        own = [row for row in rows if (row["network"], row["method"]) == (network, method)]
        points = []
        for percent in sorted({row["percent"] for row in own}):
            points.append(_point(percent, [row for row in own if row["percent"] == percent]))
        found.append({"network": network, "method": method, "points": points})
    return found


def _point(percent: float, rows: Sequence[Row]) -> dict[str, Any]:
    point: dict[str, Any] = {"percent": percent, "images": rows[0]["images"], "draws": len(rows)}
    for name in SCORES:
        values = [row[name] for row in rows]
        point[name] = round(fmean(values), 3)
        point[f"{name}_std"] = round(stdev(values), 3) if len(values) > 1 else None
    return point
