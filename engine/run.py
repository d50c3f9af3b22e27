"""A run is a folder: recipe.yaml, metrics.jsonl, TensorBoard events, checkpoints, and what --log asks for."""

import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import yaml

from . import checkpoint, lock, ranks, rows, trackers
from .board import WHAT, Board
from .files import append_line, atomic_write, write_errors
from .guard import check_finite
from .image_record import ImageRecord
from .metadata import Checkpoint, Metadata
from .outlet import Outlet
from .starts import Start

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
ATTENTION = "attention.jsonl"  # how its attentions are computed
DAMAGED_METRICS = "metrics_damaged.txt"
ONLY_FOR_RESUMING = ("optimizer", "scaler")
IDENTITY_WORDS = {
    "global_batch": "a global batch of",
    "images": "a number of training images of",
    "steps_per_epoch": "a number of steps per epoch of",
    "pixels": "training images with the hash",
    "all_pixels": "training images whose pixels have the hash",
    "files": "training images whose files' names and sizes have the hash",
    "labels": "labels with the hash",
    "teacher": "a teacher whose weights have the hash",
    "size": "a teacher that sees images of",
    "batch_norm": "a teacher whose batch norms are",
}


class TrainState(Protocol):
    """What a run trains: all that a checkpoint holds and a resumed run takes up."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class Run:
    """Writes a run's folder, on rank 0 only; other ranks hold the same object and write nothing.

    recipe: every flag by its name. operational: the flags that may change when the run is resumed. added: flags that
    older runs did not have, with the values that they acted by.
    """

    def __init__(
        self,
        folder: str | Path,
        recipe: dict[str, Any],
        operational: tuple[str, ...] = (),
        added: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.folder, self.recipe, self.operational = Path(folder), recipe, operational
        self.added = added
        self.writes = ranks.rank() == 0
        self.newest = self.folder / checkpoint.NEWEST
        self.outlets: list[Outlet] | None = None  # None until it is open
        self._start: Start | None = None
        self._read_ahead: tuple[Checkpoint, Path] | None = None  # by `stored`, for `resume`
        # What a checkpoint that is resumed says of itself
        self.calibration: dict[str, Any] = {}
        self.unlogged: list[float] | None = None
        self._images_read: int | None = None
        self._image_record: ImageRecord | None = None  # where images are streamed
        if self.writes:
            trackers.check_installed(self.recipe.get("log", ()))
            _make(self.folder)
            lock.hold(self.folder, ranks.log)
            if not (self.folder / RECIPE).exists():  # among images it tells the folder from a class
                self._write_recipe()

    def stored(self) -> Checkpoint | None:
        """The newest readable state, on every rank; `resume` takes it without reading it again."""
        self._read_ahead = self._read_ahead or self._newest()
        return self._read_ahead[0] if self._read_ahead else None

    def resume(self, train_state: TrainState, identity: dict[str, Any]) -> int:
        """Load the newest readable state, on every rank; the step to go on from, 0 for a new run.

        identity: what the images' order and the targets follow from: global_batch, steps_per_epoch, images, hashes of
        the images, of the labels and of the teacher. ValueError where the stored run was made by another recipe or has
        another identity: its schedules or its order would not fit.
        """
        newest = self._read_ahead or self._newest()
        self._read_ahead = None
        if newest is None:
            return 0
        stored, path = newest
        stored_recipe = {**self.added, **stored.metadata.recipe}
        changed = differences(stored_recipe, self.recipe, self.operational)
        for name, value in identity.items():
            # Older files do not have each of them
            before = stored.metadata.identity.get(name, value)
            if before != value:
                changed.append(f"{IDENTITY_WORDS.get(name, name)} {before} (now {value})")
        if changed:
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"{self.folder} holds another run: choose another --output_dir, or give its values to resume it: "
                f"{'; '.join(changed[:3])}{more}"
            )
        train_state.load_state(stored.state)
        self.calibration, self.unlogged = stored.metadata.calibration, stored.metadata.unlogged
        self._images_read = stored.metadata.images_read
        ranks.log(f"resuming {path} after step {stored.metadata.step}")
        return stored.metadata.step

    def compare_images(
        self, pixels: Any, identity: dict[str, Any], start: int, as_they_are: bool = False
    ) -> None:
        """Compare images that are streamed with what this run has first read of them, whenever they are read.

        identity: as in `resume`, after which it is called, on every rank. start: its step. Images in the cache have
        been compared as a whole. as_they_are: those that were read before are not compared with what they were.
        """
        if "files" in identity:
            read = self._images_read if start and not as_they_are else None
            if start and as_they_are:
                ranks.log(
                    "--resume_changed_data: streamed images are taken as they are now, and compared from now on"
                )
            elif start and read is None:
                ranks.log(
                    f"{self.folder} has no checksums of streamed images yet (it is of an older version, or they were "
                    "in the cache): they are compared from now on"
                )
            self._image_record = ImageRecord(self.folder, pixels, identity["files"], read)

    @property
    def saved(self) -> str | None:
        """The path of the newest checkpoint; None where a run was stopped before its first one."""
        return str(self.newest) if self.newest.is_file() else None

    def _newest(self) -> tuple[Checkpoint, Path] | None:
        """The newest state that any rank finds, on every rank: nodes need not see the same disk."""
        own = checkpoint.newest(self.folder, ranks.log)
        found = ranks.gather_objects(own and (own[0].metadata.step, checkpoint.fingerprint(own[1])))
        steps = [state[0] if state else -1 for state in found]
        if max(steps) < 0:
            return None
        source = steps.index(max(steps))
        if source != 0:
            here = f"step {steps[0]}" if found[0] else "none"
            newer = f"process {source} sees a checkpoint of step {steps[source]}"
            ranks.log(f"{self.folder}: {newer}, process 0 {here}: the newer one is taken")
        if own and self.writes:
            own = own[0], checkpoint.take_up(self.folder, own[1], ranks.log)
        if all(state == found[source] for state in found):
            return own
        return ranks.broadcast_object(lambda: own, source)

    def set_aside(self) -> Path:
        """Keep all files of the run so far in a sub-folder too, before it begins again in its place; the sub-folder."""
        self._images_read = None  # none of the images of the run that begins
        return ranks.broadcast_object(self._set_aside)

    def _set_aside(self) -> Path:
        number = 1
        while (self.folder / f"before_{number}").exists():
            number += 1
        kept = self.folder / f"before_{number}"
        with write_errors(kept):
            kept.mkdir()
            for path in self.folder.iterdir():
                if path.is_file() and path.name != lock.LOCK:
                    shutil.copy2(path, kept)
        return kept

    def open(self, step: int, changed: dict[str, Any]) -> None:
        """Start writing at a step: metrics after it, from a run that died later, are dropped.

        changed: the flags that do not have their defaults, which are said.
        """
        if not self.writes:
            return
        stated = [f"{name} {_shown(value)}" for name, value in changed.items()]
        summary = ", ".join(stated) or "every flag has its default"
        ranks.log(f"recipe: {summary}; all of it in {self.folder / RECIPE}")
        anew = step == 0 and (self.folder / METRICS).exists()
        lines = [f"{rows.line_of(row)}\n" for row in self._kept_rows(step)]
        self._write_recipe()
        with atomic_write(self.folder / METRICS) as file:
            file.write("".join(lines).encode())
        self._start = Start(self.folder, step)
        first_step = step + 1 if step else None
        wanted = self.recipe.get("log", ())
        self.outlets = [
            Outlet(WHAT, partial(Board, self.folder, first_step, anew)),
            *trackers.outlets(wanted, self.folder, self.recipe, self.rows, resumed=step > 0),
        ]

    def _kept_rows(self, step: int) -> list[dict]:
        """The rows up to a step; damaged lines are set aside, and rows that are missing are said.

        From step 0 nothing is resumed: what a run measured before its first step is dropped too.
        """
        if step == 0:
            return []
        metrics, damaged = rows.parse(self.folder / METRICS)
        if damaged:
            for line in damaged.values():
                append_line(self.folder / DAMAGED_METRICS, line)
            ranks.log(
                f"{self.folder / METRICS}: {len(damaged)} damaged lines, set aside in {DAMAGED_METRICS}"
            )
        kept = [row for row in metrics if row["step"] <= step]
        latest = max((row["step"] for row in kept if "loss" in row), default=0)
        if self.unlogged is not None and latest < (due := step - len(self.unlogged)):
            ranks.log(f"{self.folder / METRICS}: rows between steps {latest} and {due} are lost")
        return kept

    def _write_recipe(self) -> None:
        with atomic_write(self.folder / RECIPE) as file:
            file.write(yaml.safe_dump(self.recipe, sort_keys=False).encode())

    def log(self, step: int, **values: Any) -> None:
        """One row of metrics.jsonl and one point on each curve."""
        if self.outlets is None:
            return
        row = {"step": step, "time": round(time.time(), 3), **values}
        append_line(self.folder / METRICS, rows.line_of(row))
        for outlet in self.outlets:
            outlet.add(step, values)

    def rows(self) -> list[dict]:
        """The metrics so far, one dictionary a row."""
        return read_metrics(self.folder)

    def latest(self, name: str) -> float | None:
        """The last logged value of a metric, None before there is one."""
        for row in reversed(self.rows()):
            if name in row:
                return row[name]
        return None

    def save(self, metadata: Metadata, state: dict[str, Any]) -> None:
        """Replace the newest checkpoint, keeping the one before in reserve. FloatingPointError as check_finite's."""
        check_finite(state, metadata.step)
        if self._image_record is not None:
            self._images_read = self._image_record.write()
        # Also where this start had the images in the cache: the next one may stream them again
        metadata = replace(metadata, images_read=self._images_read)
        if self.writes:
            checkpoint.save_newest(self._checkpoint(metadata, state), self.folder)

    def keep(self, metadata: Metadata, state: dict[str, Any], name: str) -> None:
        """Save under a name of its own, for probes and for good: without what only resuming needs."""
        check_finite(state, metadata.step)
        if self.writes:
            kept = {part: value for part, value in state.items() if part not in ONLY_FOR_RESUMING}
            checkpoint.save(self._checkpoint(metadata, kept), self.folder / name)

    def _checkpoint(self, metadata: Metadata, state: dict[str, Any]) -> Checkpoint:
        return Checkpoint(replace(metadata, recipe=self.recipe), state)

    def close(self) -> None:
        for outlet in self.outlets or []:
            outlet.close()
        if self._start:
            self._start.end()
        if self.writes:
            lock.release(self.folder)


def read_metrics(folder: Path) -> list[dict]:
    """The rows of a run folder's metrics, without damaged ones and what a killed run left of its last line."""
    metrics, _ = rows.parse(folder / METRICS)
    return metrics


def verify_metrics(path: Path) -> str | None:
    """As `rows.verify`."""
    return rows.verify(path, f"a run that goes on sets that aside in {DAMAGED_METRICS}")


def verify_attention(path: Path) -> str | None:
    """As `rows.verify`."""
    return rows.verify(path, "a run that goes on measures again")


def differences(stored: dict, current: dict, operational: tuple[str, ...]) -> list[str]:
    """What changed between two recipes, except flags that only say where and how often things are written."""
    changed = []
    for name, value in current.items():
        if name in operational or name not in stored:
            continue
        if name == "dataset" and _plain(stored[name]) == _plain(value):
            continue
        if stored[name] != value:
            changed.append(f"{name} {stored[name]} (now {value})")
    return changed


def _plain(name: str | None) -> str:
    """A data set's name in one spelling: case, - and _ do not matter (the registry's rule)."""
    return re.sub(r"[^a-z0-9]", "", (name or "").lower())


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the run folder {folder}: {error.strerror}; choose another --output_dir"
        ) from None
    if not os.access(folder, os.W_OK):
        raise OSError(
            f"cannot write into the run folder {folder}: permission denied; choose another --output_dir"
        )
