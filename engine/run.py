"""A run is a folder: recipe.yaml, metrics.jsonl, TensorBoard events, checkpoints."""

import dataclasses
import json
import os
import time
from pathlib import Path

import yaml

from . import checkpoint, ranks

METRICS = "metrics.jsonl"
NAMES = {
    "global_batch": "a global batch of",
    "images": "a number of training images of",
    "steps_per_epoch": "a number of steps per epoch of",
    "pixels": "training images with the hash",
    "labels": "labels with the hash",
    "teacher": "a teacher whose weights have the hash",
    "size": "a teacher that sees images of",
    "batch_norm": "a teacher whose batch norms are",
}


class Run:
    """Writes a run's folder, on rank 0 only; other ranks hold the same object and write nothing."""

    def __init__(self, folder: str | Path, recipe):
        self.folder, self.recipe = Path(folder), recipe
        self.writes = ranks.rank() == 0
        self.newest = self.folder / checkpoint.NEWEST
        self.board = None
        if self.writes:
            _make(self.folder)

    def resume(self, networks, global_batch: int, **lengths: int | str) -> int:
        """Load the newest readable state into the networks, on every rank; the step to go on from, 0 for a new run.

        `lengths` are what the images' order and the targets follow from: steps_per_epoch, images, their hash, the
        teacher's hash.
        ValueError where the stored run was made by another recipe or of other lengths: its schedules or its order would
        not fit.
        """
        found = self._newest()
        if found is None:
            return 0
        state, path = found
        changed = differences(
            state["recipe"], dataclasses.asdict(self.recipe), self.recipe.OPERATIONAL
        )
        for name, now in {"global_batch": global_batch, **lengths}.items():
            if (
                state.get(name, now) != now
            ):  # files from before a length was stored say nothing about it
                changed.append(f"{NAMES.get(name, name)} {state[name]} (now {now})")
        if changed:
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"{self.folder} holds another run: choose another --output_dir, or give its values to resume it: "
                f"{'; '.join(changed[:3])}{more}"
            )
        networks.load_state(state)
        ranks.say(f"resuming {path} after step {state['step']}")
        return state["step"]

    def _newest(self) -> tuple[dict, Path] | None:
        """What rank 0 finds; the others read the same file where they see it, else they get its content."""
        found = checkpoint.newest(self.folder, ranks.say) if self.writes else None
        where = ranks.share(lambda: found and (found[1], found[1].stat().st_size))
        if where is None:
            return None
        path, size = where
        if ranks.everywhere(path.is_file() and path.stat().st_size == size):
            return found or (checkpoint.load(path), path)
        return ranks.share(lambda: found)

    def open(self, step: int) -> None:
        """Start writing at a step: metrics after it, from a run that died later, are dropped."""
        if not self.writes:
            return
        from torch.utils.tensorboard import (
            SummaryWriter,
        )  # slow to import, and only rank 0 needs it

        changed = ", ".join(stated(self.recipe)) or "every flag has its default"
        ranks.say(f"recipe: {changed}; all of it in {self.folder}/recipe.yaml")
        recipe = yaml.safe_dump(plain(dataclasses.asdict(self.recipe)), sort_keys=False)
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        for name, text in (("recipe.yaml", recipe), (METRICS, "".join(kept))):
            with checkpoint.replacing(self.folder / name) as file:
                file.write(text.encode())
        with checkpoint.one_line(self.folder):
            self.board = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def log(self, step: int, **values: float) -> None:
        """One row of metrics.jsonl and one point on each TensorBoard curve."""
        if not self.writes:
            return
        row = {"step": step, "time": round(time.time(), 3), **values}
        with checkpoint.one_line(self.folder / METRICS), open(self.folder / METRICS, "a") as file:
            file.write(json.dumps(row) + "\n")
        with checkpoint.one_line(self.folder / "events.out.tfevents"):
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, step)

    def rows(self) -> list[dict]:
        """The metrics so far, one dictionary a row."""
        path = self.folder / METRICS
        lines = path.read_text().splitlines() if path.exists() else []
        return [row for row in map(_row, lines) if row is not None]

    def latest(self, name: str) -> float | None:
        """The last logged value of a metric, None before there is one."""
        return next((row[name] for row in reversed(self.rows()) if name in row), None)

    def save(self, state: dict) -> None:
        """Replace the newest checkpoint, keeping the one before in reserve."""
        if self.writes:
            checkpoint.save_newest(self._described(state), self.folder)

    def keep(self, state: dict, name: str) -> None:
        """Save under a name of its own, for probes and for good: without what only resuming needs."""
        if self.writes:
            kept = {
                key: value for key, value in state.items() if key not in ("optimizer", "scaler")
            }
            checkpoint.save(self._described(kept), self.folder / name)

    def _described(self, state: dict) -> dict:
        return {**state, "recipe": plain(dataclasses.asdict(self.recipe))}

    def close(self) -> None:
        if self.board is not None:
            with checkpoint.one_line(self.folder / "events.out.tfevents"):
                self.board.close()


def differences(stored: dict, now: dict, operational: tuple[str, ...]) -> list[str]:
    """What changed between two recipes, except fields that only say where and how often things are written."""
    now = plain(now)
    return [
        f"{key} {stored[key]} (now {now[key]})"
        for key in now
        if key in stored and key not in operational and stored[key] != now[key]
    ]


def stated(recipe) -> list[str]:
    """The fields of a recipe that do not have their defaults, each with its value."""
    values = {
        field.name: (getattr(recipe, field.name), field.default)
        for field in dataclasses.fields(recipe)
    }
    return [
        f"{name} {_words(value)}" for name, (value, default) in values.items() if value != default
    ]


def _words(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def plain(value):
    """Tuples become lists, so that YAML and weights-only checkpoints give back what was stored."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


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


def _row(line: str) -> dict | None:
    """None for what a run that was killed left of its last line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
