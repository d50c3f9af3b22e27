"""The trials of `multicrop advise`: each runs the commands of both stages, and what it came to is kept."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from multicrop import cli
from multicrop.commands import _advise_speed, finetune, pretrain
from multicrop.commands._advise_halving import Candidate, Round, Trial
from multicrop.commands._advise_plan import HELD_OUT, HELD_OUT_OF_HALF, Plan
from multicrop.commands._advise_words import result_line
from multicrop.config import auto_finetune
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import ranks
from multicrop.engine.files import append_line, atomic_write, standard_error_to, write_errors
from multicrop.engine.run import read_metrics

TRIALS, SETTINGS, LOG = "trials.jsonl", "advise.json", "log.txt"
# On a GPU compiling could take longer than a trial; the runs that are advised may compile
SHORT: dict[str, Any] = {"compile": False}
T = TypeVar("T")
Run = tuple[str, dict[str, Any]]
"""A script and its flags."""


class Interrupted(Exception):
    """A run was stopped by a signal; the same command takes it up."""


class Trials:
    """The trials of an output folder, those of an earlier call among them. ValueError where it holds others'."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.folder = Path(plan.recipe.output_dir)
        self.speeds: dict[str, float] = {}
        self._open()
        self.done = _read(self.folder / TRIALS)

    def trial(self, candidate: Candidate, entry: Round, half: bool = False) -> Trial:
        """A trial of a round, with half of the labels on request; from the file where it has finished before."""
        share = 0.5 if half else 1.0
        for trial in self.done:
            if (trial.candidate, trial.round, trial.labels) == (
                candidate.name,
                entry.number,
                share,
            ):
                return trial
        trial = self._run(candidate, entry, share)
        self.done.append(trial)
        append_line(self.folder / TRIALS, json.dumps(asdict(trial)))
        ranks.log(f"round {entry.number}: {result_line(trial)}")
        return trial

    def fits(self, count: int, units: int) -> bool:
        """Whether so many trials of so many units still fit the time."""
        budget = self.plan.recipe.seconds
        if budget is None:
            return True
        spent = sum(trial.seconds for trial in self.done)
        return spent + count * units * self.plan.unit <= budget

    def go_on(self, candidate: Candidate) -> list[Run]:
        """Scripts and flags that take a candidate to the end of its whole budget."""
        plan, units = self.plan, float(self.plan.course)
        runs = []
        if candidate.pretrains:
            units /= 2
            flags = plan.pretraining(candidate, self._speed(candidate, "pretrain"))
            runs.append(("train_ssl.py", flags))
        steps = plan.steps(units, self._speed(candidate, "finetune"))
        flags = plan.finetuning(candidate, steps, self._teacher(candidate), "finetune")
        return [*runs, ("finetune.py", flags)]

    def speed_of(self, candidate: Candidate, script: str) -> float | None:
        """Measured seconds of a step of a script; None where the budget is one of steps."""
        return self._speed(
            candidate, {"train_ssl.py": "pretrain", "finetune.py": "finetune"}[script]
        )

    # A trial

    def _run(self, candidate: Candidate, entry: Round, share: float) -> Trial:
        plan, begun = self.plan, time.perf_counter()
        units, teacher = float(entry.units), self._teacher(candidate)
        pretrain_step = None
        if candidate.pretrains:
            units /= 2
            speed = self._speed(candidate, "pretrain")
            flags = plan.pretraining(candidate, speed) | {"max_steps": plan.steps(units, speed)}
            recipe = cli.parse(Pretraining, cli.words_of(flags | SHORT))
            result = self._logged(candidate, lambda: pretrain.run(recipe))
            pretrain_step = _step_seconds(result, plan.images.settings["batch_size_per_gpu"])
        held_out = HELD_OUT
        steps = plan.steps(units, self._speed(candidate, "finetune"))
        flags = plan.finetuning(candidate, steps, teacher, f"round{entry.number}")
        if share < 1:  # as many steps as the trial that it is compared with had, in more epochs
            held_out, steps = HELD_OUT_OF_HALF, plan.length(flags)
            flags = plan.finetuning(candidate, steps, teacher, "half-of-labels", held_out)
        stage_two = cli.parse(Finetuning, cli.words_of(flags | SHORT))
        result = self._logged(candidate, lambda: finetune.run(stage_two))
        # Of the validation images, after the last step. Test accuracies, which stage two reports, choose nothing.
        rows = read_metrics(Path(flags["output_dir"]))
        top1 = next(row["val_top1"] for row in reversed(rows) if "val_top1" in row)
        return Trial(
            candidate=candidate.name,
            round=entry.number,
            units=entry.units,
            labels=share,
            top1=top1,
            images=plan.split(held_out)[1],
            seconds=round(time.perf_counter() - begun, 1),
            pretrain_step=pretrain_step,
            finetune_step=_step_seconds(result, plan.batch_size),
        )

    def _logged(self, candidate: Candidate, work: Callable[[], T]) -> T:
        """What a run says goes into its candidate's log. Interrupted where a signal stopped it."""
        with standard_error_to(self.plan.folder(candidate) / LOG):
            result = work()
        if isinstance(result, dict) and result["status"] == "interrupted":
            raise Interrupted
        return result

    def _teacher(self, candidate: Candidate) -> str | None:
        """The folder of the newest trial of a candidate's guide."""
        if candidate.guide is None:
            return None
        rounds = [
            trial.round
            for trial in self.done
            if trial.candidate == candidate.guide and trial.labels == 1
        ]
        return str(self.folder / candidate.guide / f"round{max(rounds)}")

    def _speed(self, candidate: Candidate, stage: str) -> float | None:
        """Seconds of a step, measured once and kept, so that a run that is resumed keeps its schedule."""
        if self.plan.recipe.steps is not None:
            return None
        key = f"{candidate.arch}{', guided' if candidate.guide else ''}, {stage}"
        if key not in self.speeds:
            self.speeds[key] = self._logged(candidate, lambda: self._measure(candidate, stage))
            self._write()
        return self.speeds[key]

    def _measure(self, candidate: Candidate, stage: str) -> float:
        if stage == "pretrain":
            flags = self.plan.pretraining(candidate, 1.0)
            return _advise_speed.pretraining_step(
                cli.parse(Pretraining, cli.words_of(flags | SHORT))
            )
        scratch = Candidate(candidate.name, candidate.arch)
        flags = self.plan.finetuning(scratch, 1, self._teacher(candidate), "timed")
        return _advise_speed.finetuning_step(cli.parse(Finetuning, cli.words_of(flags | SHORT)))

    # The folder

    def _open(self) -> None:
        recipe, images = self.plan.recipe, self.plan.images
        self.settings = {
            "path": str(Path(recipe.path).expanduser().resolve()),
            "dataset": images.dataset,
            "images": images.facts.images,
            "network": images.settings["arch"],
            "minutes": None if recipe.seconds is None else recipe.seconds / 60,
            "steps": recipe.steps,
            "seed": recipe.seed,
            "lr": auto_finetune.RATE,
        }
        path = self.folder / SETTINGS
        if not path.exists():
            with write_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
            return
        stored = json.loads(path.read_text())
        changed = [
            f"{name} {stored['settings'].get(name)} (now {value})"
            for name, value in self.settings.items()
            if stored["settings"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds other trials: choose another --output_dir, or give their values to go on with "
                f"them: {'; '.join(changed)}"
            )
        self.speeds = stored["speeds"]

    def _write(self) -> None:
        with atomic_write(self.folder / SETTINGS) as file:
            stored = {"settings": self.settings, "speeds": self.speeds}
            file.write(json.dumps(stored, indent=1).encode())


def _step_seconds(result: dict[str, Any], batch: int) -> float | None:
    """None where a run had nothing left to do."""
    speed = result["images_per_second"]
    return round(batch / speed, 5) if speed else None


def _read(path: Path) -> list[Trial]:
    """The trials of a file, without what an interrupted call left of its last line."""
    trials = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            trials.append(Trial(**json.loads(line)))
    return trials
