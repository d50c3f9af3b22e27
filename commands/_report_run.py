"""The part of a report about runs: their curves, what the collapse monitor says, their recipes. One run or several."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from multicrop.commands import _report_curves
from multicrop.commands._report_block import attempt
from multicrop.commands._report_curves import CURVES
from multicrop.commands._report_folder import RECIPES, RunFolder, labels_of
from multicrop.config.flags import from_flags, to_flags, typed
from multicrop.pictures.page import Block, LeftOut, Section, Table, Words

BASELINES = ("knn_raw_pixels", "knn_random_weights", "knn_start_weights")
KINDS = {"ssl": "stage one", "finetune": "stage two", "": "unknown"}
UNKNOWN_ENERGY = "not readable on this machine, or an older run"


def section(runs: Sequence[RunFolder]) -> Section:
    blocks: list[Block] = [
        LeftOut(f"what is damaged of {run.path / name}", problem)
        for run in runs
        for name, problem in run.problems.items()
    ]
    if len(runs) == 1:
        blocks += attempt("summary", lambda: summary(runs[0]))
    else:
        blocks += attempt("results", lambda: results(runs))
    blocks += attempt("what the collapse monitor says", lambda: _report_curves.said(runs))
    blocks += attempt("curves", lambda: _report_curves.curves(runs))
    if len(runs) == 1:
        blocks += attempt("recipe", lambda: recipe(runs[0]))
    else:
        blocks += attempt("recipes", lambda: differing(runs))
    return Section("The run" if len(runs) == 1 else "The runs", blocks)


# Numbers


def summary(run: RunFolder) -> Iterator[Block]:
    rows = run.rows
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    facts: list[list[Any]] = [["kind", KINDS[run.kind]]]
    facts.append(["steps", last.get("step", "none yet")])
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
    facts.append(["resumed", resumes(run)])
    facts.append(["energy", energy(run) or UNKNOWN_ENERGY])
    yield Table(str(run.path), ["", ""], [fact for fact in facts if fact[1] not in (None, "")])


def resumes(run: RunFolder) -> str:
    """How often, and where."""
    steps = [start["step"] for start in run.starts if start.get("step")]
    return f"{len(steps)} times, last after step {steps[-1]}" if steps else ""


def energy(run: RunFolder) -> str:
    """What the machine's processors drew in all starts that came to an end; empty where that is not known."""
    joules = sum(start.get("joules", 0) for start in run.starts)
    return f"{joules / 3600:.1f} Wh (processors)" if joules else ""


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


def results(runs: Sequence[RunFolder]) -> Iterator[Block]:
    """The last value of each accuracy of every run, its time and its machine."""
    names = (*BASELINES, *CURVES["Accuracy, percent"])
    last = [{name: row[name] for row in run.rows for name in names if name in row} for run in runs]
    there = [name for name in names if any(name in values for values in last)]
    rows = []
    for label, run, values in zip(labels_of(runs), runs, last, strict=True):
        machine = run.starts[-1].get("machine", {}) if run.starts else {}
        steps = run.rows[-1]["step"] if run.rows else 0
        accuracies = [_rounded(values.get(name)) for name in there]
        time = in_words(working_seconds(run.rows))
        rows.append([label, steps, *accuracies, time, energy(run), machine.get("device", "")])
    head = ["run", "steps", *there, "time", "energy", "device"]
    kept = [column for column in range(len(head)) if any(row[column] != "" for row in rows)]
    yield Table(
        "Last values, accuracies in percent",
        [head[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


# Recipes


def recipe(run: RunFolder) -> Iterator[Block]:
    """What differs from the defaults, then all of it."""
    if not run.recipe:
        yield Words("The folder has no recipe.")
        return
    settings = [[f"--{name}", shown(value)] for name, value in run.recipe.items()]
    every = Table(f"The whole recipe, {len(settings)} settings", ["flag", "value"], settings, True)
    if not run.kind:
        yield every
        return
    defaults = to_flags(from_flags(RECIPES[run.kind], {}))
    rows = [
        [f"--{name}", shown(value), shown(defaults[name])]
        for name, value in run.recipe.items()
        if name in defaults and value != defaults[name]
    ]
    yield Table("Settings that differ from their defaults", ["flag", "value", "default"], rows)
    yield every


def differing(runs: Sequence[RunFolder]) -> Iterator[Block]:
    """What differs among several runs, then what they share."""
    names = dict.fromkeys(name for run in runs for name in run.recipe)
    different, same = [], []
    for name in names:
        values = [shown(run.recipe.get(name)) for run in runs]
        if len(set(values)) == 1:
            same.append([f"--{name}", values[0]])
        elif name != "output_dir":
            different.append([f"--{name}", *values])
    head = ["flag", *labels_of(runs)]
    yield Table("Settings in which the runs differ", head, different)
    yield Table(f"Settings that they share, {len(same)}", ["flag", "value"], same, True)


def shown(value: Any) -> str:
    return typed(tuple(value) if isinstance(value, list) else value)
