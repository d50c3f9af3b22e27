"""What a run folder says for a report: rows, recipe and starts; what of it cannot be read is left out with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import from_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine.files import first_line
from multicrop.engine.run import METRICS, RECIPE, read_metrics, verify_metrics
from multicrop.engine.starts import STARTS, read_starts, verify_starts

T = TypeVar("T")
RECIPES: dict[str, type[Pretraining] | type[Finetuning]] = {
    "ssl": Pretraining,
    "finetune": Finetuning,
}


@dataclass(frozen=True)
class RunFolder:
    """A run: its rows, its recipe, and a row for each of its starts."""

    path: Path
    rows: list[dict[str, Any]]
    recipe: dict[str, Any]
    starts: list[dict[str, Any]]
    problems: dict[str, str]
    """Of each file that is damaged, or cannot be read, why."""

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        problems: dict[str, str] = {}

        def attempt(name: str, read: Callable[[], T], otherwise: T) -> T:
            try:
                return read()
            except (ValueError, OSError, yaml.YAMLError) as error:
                problems[name] = first_line(error)
                return otherwise

        nothing: list[dict[str, Any]] = []
        no_flags: dict[str, Any] = {}
        rows = attempt(METRICS, lambda: read_metrics(path), nothing)
        recipe = attempt(RECIPE, lambda: _recipe(path), no_flags)
        starts = attempt(STARTS, lambda: read_starts(path), nothing)
        for name, verify in ((METRICS, verify_metrics), (STARTS, verify_starts)):
            if (path / name).exists() and name not in problems:
                attempt(name, partial(verify, path / name), None)
        return cls(path, rows, recipe, starts, problems)

    @property
    def kind(self) -> str:
        """ "ssl", "finetune", or nothing where neither the recipe nor the rows tell."""
        if "out_dim" in self.recipe:
            return "ssl"
        if "pretrained_weights" in self.recipe:
            return "finetune"
        return "ssl" if any("feature_rank" in row for row in self.rows) else ""

    @property
    def settings(self) -> Pretraining | Finetuning:
        """ValueError where the recipe is another version's, or is not there."""
        if not self.recipe or not self.kind:
            raise ValueError(f"{self.path / RECIPE} does not say what was run")
        return from_flags(RECIPES[self.kind], self.recipe)


def _recipe(path: Path) -> dict[str, Any]:
    if not (path / RECIPE).exists():
        return {}
    content = yaml.safe_load((path / RECIPE).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("holds no flags")
    return {str(name): value for name, value in content.items()}


def is_run(path: Path) -> bool:
    return path.is_dir() and any(
        (path / name).is_file() for name in (RECIPE, METRICS, "checkpoint.pt")
    )


def labels_of(runs: Sequence[RunFolder]) -> list[str]:
    """What a chart calls each run: its folder, with its parents where that is not enough."""
    names = [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]
