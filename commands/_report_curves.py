"""The curves of runs, and what happened along them: checkpoints, resumes, what the collapse monitor says."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from multicrop import registry
from multicrop.commands._monitor import Monitor
from multicrop.commands._report_folder import RunFolder, labels_of
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine.checkpoint import step_of
from multicrop.pictures import charts
from multicrop.pictures.charts import CHECKPOINT, RESUMED, WARNING
from multicrop.pictures.page import Block, Chart, Table, Words

CURVES = {
    "Loss": ("loss", "label_loss", "val_loss", "test_loss"),
    "KoLeo": ("koleo",),
    "Contrast, nats": ("contrast",),
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
    "Entropy of the targets, nats": ("target_entropy", "mean_entropy"),
    "Gap between these two, nats": ("target_gap",),
    "Learning rate": ("lr",),
    "Teacher momentum": ("momentum",),
    "Gradient norm": ("grad_norm",),
    "Images per second": ("images_per_second",),
    "Share of the time that the step waits for images": ("data_share",),
}
MOST_POINTS = 3000  # of a chart
MOST_OF_LINE = 600
FEWEST_OF_LINE = 50
MOST_NAMED = 8  # checkpoints whose steps are read from their files


def curves(runs: Sequence[RunFolder]) -> Iterator[Block]:
    several = len(runs) > 1
    marks = [] if several else marks_of(runs[0])
    shown = 0
    for title, names in CURVES.items():
        lines = lines_of(runs, names)
        most = max(FEWEST_OF_LINE, min(MOST_OF_LINE, MOST_POINTS // max(1, len(lines))))
        points = [
            {"step": step, title: value, "run": run, "what": what}
            for (run, what), values in lines.items()
            for step, value in thinned(values, most)
        ]
        if not points:
            continue
        # Where the others stand is to be read from the loss; each curve has the resumes
        there = marks if title == "Loss" else [m for m in marks if m["kind"] != WARNING]
        what = "what" if len({what for _, what in lines}) > 1 else None
        colour, dash = ("run", what) if several else (what, None)
        spec = charts.lines(points, "step", title, colour, there, dash)
        shown += 1
        yield Chart(f"curve_{shown}", caption(title, [] if shown > 1 else there), spec)
    if not shown:
        yield Words("There are no curves yet.")


def lines_of(
    runs: Sequence[RunFolder], names: Sequence[str]
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """The points of each run and name; without empty ones."""
    lines = {}
    for label, run in zip(labels_of(runs), runs, strict=True):
        for name in names:
            points = curve(run.rows, name)
            if points:
                lines[label, name] = points
    return lines


def caption(title: str, marks: Sequence[dict[str, Any]]) -> str:
    """marks: those that it explains."""
    kinds = {mark["kind"] for mark in marks}
    return "; ".join([title, *(text for kind, text in charts.MARKS.items() if kind in kinds)])


def curve(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of every finite value."""
    return [
        (row["step"], row[name])
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Every so manieth where there are more than a chart can show, and the last."""
    every = -(-len(points) // most)
    return points[::every] + (points[-1:] if every > 1 else []) if points else []


# What happened along them


def marks_of(run: RunFolder) -> list[dict[str, Any]]:
    """Where the run can be gone on from or probed, where it went on after a stop, and what the monitor says."""
    marks = [
        {"step": step, "kind": CHECKPOINT, "note": name}
        for name, step in checkpoints(run.path, run.rows).items()
    ]
    marks += [
        {"step": start["step"], "kind": RESUMED, "note": "resumed"}
        for start in run.starts
        if isinstance(start.get("step"), int) and start["step"]
    ]
    with suppress(
        ValueError, TypeError
    ):  # that the recipe is unknown is said where they are listed
        marks += [
            {"step": row["step"], "kind": WARNING, "note": text} for row, text in findings(run)
        ]
    return marks


def checkpoints(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The run's checkpoints by name and the step of each; those that do not say it are left out.

    Of many kept ones the steps are those of the epochs in their names.
    """
    files = sorted(folder.glob("[!.]*.pt"))
    per_epoch = steps_per_epoch(rows)
    found = {}
    for path in files:
        number = path.stem.removeprefix("checkpoint")
        if len(files) > MOST_NAMED and number.isdecimal() and per_epoch:
            found[path.name] = round(int(number) * per_epoch)
            continue
        try:
            found[path.name] = step_of(path)
        except ValueError:  # damaged, of another program, or just being replaced
            continue
    return found


def steps_per_epoch(rows: Sequence[dict[str, Any]]) -> float | None:
    for row in reversed(rows):
        if isinstance(row.get("epoch"), int | float) and row["epoch"] > 0:
            return row["step"] / row["epoch"]
    return None


def findings(run: RunFolder) -> list[tuple[dict[str, Any], str]]:
    """What the collapse monitor said at the ends of epochs, with the row. ValueError where the recipe is unknown."""
    settings = run.settings
    if not isinstance(settings, Pretraining):
        return []
    objective = registry.find("ssl.objectives", settings.method.objective).Objective
    monitor = Monitor(settings, objective.from_recipe(settings, 1), []).collapse
    found = []
    for row in run.rows:
        if "feature_rank" in row and "loss" in row:
            monitor.update(row["loss"], row)
            epoch = row.get("epoch", 0.0)
            asked = epoch == round(epoch) or row is run.rows[-1]  # as the run does
            text = monitor.warning(epoch) if asked else None
            if text:
                found.append((row, text))
    return found


def said(runs: Sequence[RunFolder]) -> Iterator[Block]:
    """The monitor's sentences of all runs of stage one."""
    stage_one = [run for run in runs if run.kind == "ssl"]
    if not stage_one:
        return
    rows = [
        [*([label] if len(runs) > 1 else []), row["step"], text]
        for label, run in zip(labels_of(runs), runs, strict=True)
        for row, text in findings(run)
    ]
    if rows:
        head = [*(["run"] if len(runs) > 1 else []), "step", "finding"]
        yield Table("What the collapse monitor says", head, rows)
    else:
        yield Words("The collapse monitor has found nothing.")
