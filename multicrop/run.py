"""A run is a folder: recipe.yaml, metrics.jsonl, TensorBoard events, checkpoints."""

import dataclasses
import json
import os
import time
from pathlib import Path

import yaml

from . import checkpoint, ranks


class Run:
    """Writes a run's folder, on rank 0 only; other ranks hold the same object and write nothing."""

    def __init__(self, folder: str | Path, recipe):
        self.folder, self.recipe = Path(folder), recipe
        self.writes = ranks.rank() == 0
        self.newest = self.folder / checkpoint.NEWEST
        self.board = None
        if self.writes:
            _make(self.folder)

    def resume(self, networks, global_batch: int) -> int:
        """Load the newest readable state into the networks, on every rank; the step to go on from, 0 for a new run.

        ValueError where the stored run was made by another recipe: its schedules or its order would not fit.
        """
        found = ranks.share(lambda: checkpoint.newest(self.folder, ranks.say))
        if found is None:
            return 0
        state, path = found
        changed = differences(state["recipe"], dataclasses.asdict(self.recipe), self.recipe.OPERATIONAL)
        if state["global_batch"] != global_batch:
            changed.append(f"a global batch of {state['global_batch']} (now {global_batch})")
        if changed:
            raise ValueError(
                f"{path} was made with {'; '.join(changed)}: give the stored values or another --output_dir"
            )
        networks.load_state(state)
        ranks.say(f"resuming {path} after step {state['step']}")
        return state["step"]

    def open(self, step: int) -> None:
        """Start writing at a step: metrics after it, from a run that died later, are dropped."""
        if not self.writes:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only rank 0 needs it

        text = yaml.safe_dump(plain(dataclasses.asdict(self.recipe)), sort_keys=False)
        (self.folder / "recipe.yaml").write_text(text)
        metrics = self.folder / "metrics.jsonl"
        kept = [line for line in _lines(metrics) if json.loads(line)["step"] <= step]
        metrics.write_text("".join(kept))
        self.board = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def log(self, step: int, **values: float) -> None:
        """One row of metrics.jsonl and one point on each TensorBoard curve."""
        if not self.writes:
            return
        row = {"step": step, "time": round(time.time(), 3), **values}
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(name, value, step)

    def rows(self) -> list[dict]:
        """The metrics so far."""
        return [json.loads(line) for line in _lines(self.folder / "metrics.jsonl")]

    def save(self, state: dict) -> None:
        """Replace the newest checkpoint, keeping the one before in reserve."""
        if self.writes:
            checkpoint.save_newest(self._described(state), self.folder)

    def keep(self, state: dict, name: str) -> None:
        """Save under a name of its own, for probes and for good: without what only resuming needs."""
        if self.writes:
            kept = {key: value for key, value in state.items() if key not in ("optimizer", "scaler")}
            checkpoint.save(self._described(kept), self.folder / name)

    def _described(self, state: dict) -> dict:
        return {**state, "recipe": plain(dataclasses.asdict(self.recipe))}

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def differences(stored: dict, now: dict, operational: tuple[str, ...]) -> list[str]:
    """What changed between two recipes, except fields that only say where and how often things are written."""
    now = plain(now)
    return [
        f"{key} {stored[key]} (now {now[key]})"
        for key in now
        if key in stored and key not in operational and stored[key] != now[key]
    ]


def plain(value):
    """Tuples become lists, so that YAML and weights-only checkpoints give back what was stored."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the run folder {folder}: {error.strerror}; choose another --output_dir") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"cannot write into the run folder {folder}: permission denied; choose another --output_dir")


def _lines(path: Path) -> list[str]:
    """Whole lines only: a run that was killed may have left half a line."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
