"""The part of a report about runs: their curves, what the collapse monitor says, their recipes. One run or several."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from multicrop import registry
from multicrop.commands._monitor import Monitor
from multicrop.commands._report_block import attempt
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import from_flags, to_flags, typed
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine.run import METRICS, RECIPE, read_metrics
from multicrop.engine.starts import read_starts
from multicrop.pictures import charts
from multicrop.pictures.page import Block, Chart, Section, Table, Words

CURVES = {
    "Loss": ("loss", "koleo", "label_loss", "val_loss", "test_loss"),
    "Accuracy, percent": (
        "knn_top1",
        "train_top1",
        "val_top1",
        "test_top1",
        "ema_val_top1",
        "selected_test_top1",
    ),
    "Feature rank": ("feature_rank",),
    "Feature spread": ("feature_spread",),
    "Entropy of the targets, nats": ("target_entropy", "mean_entropy", "target_gap"),
    "Learning rate": ("lr",),
    "Teacher momentum": ("momentum",),
    "Gradient norm": ("grad_norm",),
    "Images per second": ("images_per_second",),
    "Share of the time that the step waits for images": ("data_share",),
}
BASELINES = ("knn_raw_pixels", "knn_random_weights", "knn_start_weights")
MOST_POINTS = 600  # of a curve


@dataclass(frozen=True)
class RunFolder:
    """What a run folder says: its rows and its recipe."""

    path: Path
    rows: list[dict[str, Any]]
    recipe: dict[str, Any]
    starts: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        recipe: Any = {}
        if (path / RECIPE).exists():
            recipe = yaml.safe_load((path / RECIPE).read_text())
        return cls(
            path, read_metrics(path), recipe if isinstance(recipe, dict) else {}, read_starts(path)
        )

    @property
    def kind(self) -> str:
        return "ssl" if "out_dim" in self.recipe else "finetune"

    @property
    def settings(self) -> Pretraining | Finetuning:
        if self.kind == "ssl":
            return from_flags(Pretraining, self.recipe)
        return from_flags(Finetuning, self.recipe)


def is_run(path: Path) -> bool:
    return path.is_dir() and any(
        (path / name).is_file() for name in (RECIPE, METRICS, "checkpoint.pt")
    )


def section(runs: Sequence[RunFolder]) -> Section:
    blocks: list[Block] = []
    if len(runs) == 1:
        blocks += attempt("summary", lambda: summary(runs[0]))
        blocks += attempt("what the collapse monitor says", lambda: warnings(runs[0]))
    else:
        blocks += attempt("results", lambda: results(runs))
    blocks += attempt("curves", lambda: curves(runs))
    blocks += attempt("recipe", lambda: recipes(runs))
    return Section("The run" if len(runs) == 1 else "The runs", blocks)


def summary(run: RunFolder) -> Iterator[Block]:
    rows = run.rows
    if not rows:
        yield Words("The run has no rows of metrics yet.")
        return
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    facts: list[list[Any]] = [["kind", "stage one" if run.kind == "ssl" else "stage two"]]
    facts.append(["steps", last["step"]])
    if "epoch" in last:
        of = run.recipe.get("epochs")
        facts.append(["epochs", f"{last['epoch']:g} of {of}" if of else f"{last['epoch']:g}"])
    facts += [
        [name, f"{last[name]:.2f} %"]
        for name in (*BASELINES, *CURVES["Accuracy, percent"])
        if name in last
    ]
    facts.append(["training time", in_words(working_seconds(rows))])
    for start in run.starts[-1:]:
        facts += [[name, value] for name, value in start.get("machine", {}).items()]
        facts.append(["multicrop", start.get("version")])
    joules = sum(start.get("joules", 0) for start in run.starts)
    facts.append(
        [
            "energy",
            f"{joules / 3600:.1f} Wh"
            if joules
            else "not readable on this machine, or an older run",
        ]
    )
    yield Table(str(run.path), ["", ""], facts)


def working_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """From the first row to the last, without pauses: gaps of more than ten times the usual between rows."""
    times = [row["time"] for row in rows if "time" in row]
    gaps = sorted(max(0.0, after - before) for before, after in pairwise(times))
    if not gaps:
        return 0.0
    usual = max(gaps[len(gaps) // 2], 1.0)
    return sum(gap for gap in gaps if gap <= 10 * usual)


def in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def warnings(run: RunFolder) -> Iterator[Block]:
    """What the monitor would have said at each row."""
    if run.kind != "ssl":
        return
    settings = run.settings
    assert isinstance(settings, Pretraining)
    found = [[row["step"], text] for row, text in monitored(settings, run.rows)]
    if found:
        yield Table("What the collapse monitor says", ["step", "finding"], found)
    else:
        yield Words("The collapse monitor has found nothing.")


def monitored(
    settings: Pretraining, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str]]:
    objective = registry.find("ssl.objectives", settings.method.objective).Objective.from_recipe(
        settings, 1
    )
    monitor = Monitor(settings, objective, []).collapse
    for row in rows:
        if "feature_rank" in row and "loss" in row:
            monitor.update(row["loss"], row)
            text = monitor.warning(row.get("epoch", 0.0))
            if text:
                yield row, text


def results(runs: Sequence[RunFolder]) -> Iterator[Block]:
    """The last value of each accuracy of every run."""
    names = (*BASELINES, *CURVES["Accuracy, percent"])
    last = [{name: row[name] for row in run.rows for name in names if name in row} for run in runs]
    there = [name for name in names if any(name in values for values in last)]
    rows = [
        [
            label,
            run.rows[-1]["step"] if run.rows else 0,
            *(_rounded(values.get(name)) for name in there),
        ]
        for label, run, values in zip(labels_of(runs), runs, last, strict=True)
    ]
    yield Table("Last values, accuracies in percent", ["run", "steps", *there], rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def labels_of(runs: Sequence[RunFolder]) -> list[str]:
    """What a chart calls each run: its folder, with its parents where that is not enough."""
    names = [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def curves(runs: Sequence[RunFolder]) -> Iterator[Block]:
    several = len(runs) > 1
    shown = 0
    for title, names in CURVES.items():
        points = []
        for label, run in zip(labels_of(runs), runs, strict=True):
            for name in names:
                line = (
                    f"{label}: {name}" if several and len(names) > 1 else label if several else name
                )
                points += [
                    {"step": step, title: value, "line": line}
                    for step, value in curve(run.rows, name)
                ]
        if not points:
            continue
        marks = [] if several else marks_of(runs[0])
        unnamed = len({point["line"] for point in points}) == 1
        spec = charts.lines(points, "step", title, None if unnamed else "line", marks)
        shown += 1
        yield Chart(f"curve_{shown}", caption(title, points, marks), spec)
    if not shown:
        yield Words("There are no curves yet.")


def caption(title: str, points: Sequence[dict[str, Any]], marks: Sequence[dict[str, Any]]) -> str:
    if not marks:
        return title
    return f"{title}; upright lines: {', '.join(dict.fromkeys(mark['note'] for mark in marks))}"


def curve(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value), every so manieth where there are more than a chart can show."""
    points = [
        (row["step"], row[name])
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    every = -(-len(points) // MOST_POINTS)
    return points[::every] + (points[-1:] if every > 1 else []) if points else []


def marks_of(run: RunFolder) -> list[dict[str, Any]]:
    """Where the run went on after a stop."""
    return [{"step": start["step"], "note": "resumed"} for start in run.starts if start.get("step")]


def recipes(runs: Sequence[RunFolder]) -> Iterator[Block]:
    """What differs from the defaults; of several runs what differs among them."""
    if len(runs) == 1:
        run = runs[0]
        defaults = to_flags(from_flags(type(run.settings), {}))
        rows = [
            [f"--{name}", shown(value), shown(defaults[name])]
            for name, value in run.recipe.items()
            if name in defaults and value != defaults[name]
        ]
        yield Table("Settings that differ from their defaults", ["flag", "value", "default"], rows)
        return
    names = [name for run in runs for name in run.recipe]
    rows = []
    for name in dict.fromkeys(names):
        values = [shown(run.recipe.get(name)) for run in runs]
        if len(set(values)) > 1 and name != "output_dir":
            rows.append([f"--{name}", *values])
    yield Table("Settings in which the runs differ", ["flag", *labels_of(runs)], rows)


def shown(value: Any) -> str:
    return typed(tuple(value) if isinstance(value, list) else value)


def age(path: Path) -> float:
    """Seconds since a file was last written."""
    return time.time() - path.stat().st_mtime
