"""Records of a run in the programs that --log names: each is told the recipe once, then the numbers of each row.

A record stays on this machine unless that program's own environment variables send it elsewhere. A run folder's
trackers.json has the records' names, so that a resumed run goes on in them.
"""

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from . import ranks
from .files import atomic_write
from .outlet import Outlet, Writer, numbers_of
from .table import Table

PROJECT = "multicrop"
RECORDS = "trackers.json"
CSV = "csv"


class Tracker(Writer, Protocol):
    """What writes a record; its name finds it again."""

    record: str


class Wandb:
    """Weights & Biases: below the run folder, offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, recipe: dict[str, Any], record: str | None):
        import wandb

        self.record = record or secrets.token_hex(4)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder),
            id=self.record,
            name=folder.name,
            config=recipe,
            resume="allow",
            mode=mode,
            reinit="create_new",  # of a run that failed before in this process, nothing is taken up
            settings=wandb.Settings(console="off", silent=True),
        )
        # Its own count of steps cannot go back, as that of a resumed run does
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if mode == "offline":
            runs = folder / "wandb" / "offline-run-*"
            ranks.log(f"wandb: offline record {self.record}; wandb sync --append {runs} sends it")

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow: where MLFLOW_TRACKING_URI says, else its own default, a database in the working folder."""

    def __init__(self, folder: Path, recipe: dict[str, Any], record: str | None):
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if record:
            self._client.update_run(record, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(), run_name=folder.name)
            record = run.info.run_id
            for name, value in recipe.items():
                self._client.log_param(record, name, value)
        self.record = record

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self.record, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.record)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self._client.create_experiment(name)


class Trackio:
    """Trackio: a database on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""

    def __init__(self, folder: Path, recipe: dict[str, Any], record: str | None):
        import trackio

        self._trackio = trackio
        self.record = record or f"{folder.name}-{secrets.token_hex(4)}"
        with redirect_stdout(sys.stderr):  # the last line of standard output is the result
            self._run = trackio.init(
                project=PROJECT, name=self.record, config=recipe, resume="allow", embed=False
            )

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()  # that of the run alone would be called again at the program's end


TRACKERS: dict[str, Callable[[Path, dict[str, Any], str | None], Tracker]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def check_installed(names: Iterable[str]) -> None:
    """ValueError where a library is missing: to be said before a long decoding."""
    for name in names:
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise ValueError(f"--log {name} needs {name}: pip install {name}")


def outlets(
    names: Iterable[str],
    folder: Path,
    recipe: dict[str, Any],
    rows: Callable[[], list[dict[str, Any]]],
    resumed: bool,
) -> list[Outlet]:
    """What --log asks for. rows: all that the run has measured so far."""
    opened = []
    for name in names:
        if name == CSV:
            opened.append(Outlet("metrics.csv", partial(Table, folder, rows)))
        else:
            make = partial(_open, name, folder, recipe, rows() if resumed else [], resumed)
            opened.append(Outlet(f"record of {name}", make))
    return opened


def _open(
    name: str, folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]], resumed: bool
) -> Tracker:
    """The record that a resumed run has had before, or a new one that begins with the rows so far."""
    path = folder / RECORDS
    records = json.loads(path.read_text()) if path.exists() else {}
    before = records.get(name) if resumed else None
    tracker = TRACKERS[name](folder, recipe, before)
    if before is None:
        with atomic_write(path) as file:
            file.write(json.dumps({**records, name: tracker.record}).encode())
        for row in rows:
            tracker.add(row["step"], numbers_of(row))
    return tracker
