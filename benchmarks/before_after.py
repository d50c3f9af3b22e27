"""A benchmark of two versions of the code, in turns: is anything slower than it was?

    python -m benchmarks.before_after --before COMMIT --benchmark train_step --flags="--threads 1 --steps 2"

Checks the older version out beside this one, and runs `python -m benchmarks.NAME FLAGS` in each of them, again and
again, each with the benchmark as that version has it. Prints one JSON object: the number that was asked for in each
turn, and the ratio after / before: its median and range over the turns. Both share the machine's noise of their turn.
"""

import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks._machine import machine
from multicrop import cli
from multicrop.config.checks import AT_LEAST_1, check_values

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Recipe:
    """Compare two versions by a benchmark."""

    before: str
    """The older version, as git names it."""
    benchmark: str = "train_step"
    """A file of benchmarks/ that prints a JSON object."""
    number: str = "ms_per_step"
    """The name of a number in that object."""
    flags: str = ""
    """Flags of the benchmark, which both versions must have."""
    turns: int = 5
    """Runs of each version."""
    out: str | None = None
    """Write the JSON object here too."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "turns")


def measure(r: Recipe) -> dict:
    turns = []
    with TemporaryDirectory() as folder:
        older = Path(folder) / "before"
        git("worktree", "add", "--detach", str(older), r.before)
        try:
            for _ in range(r.turns):
                turns.append({"before": number(r, older), "after": number(r, ROOT)})
        finally:
            git("worktree", "remove", "--force", str(older))
    ratios = [turn["after"] / turn["before"] for turn in turns]
    comparison = {
        "what": f"{r.number} of benchmarks/{r.benchmark}.py, two versions in turns",
        "settings": asdict(r),
        "after": git("rev-parse", "HEAD"),
        "uncommitted": git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "machine": machine(torch.device("cpu")),
        "turns": turns,
        "after_over_before": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    if r.out:
        Path(r.out).write_text(json.dumps(comparison, indent=1) + "\n")
    return comparison


def number(r: Recipe, checkout: Path) -> float:
    """What the benchmark of a checkout says. SystemExit, with its own words, where it fails."""
    words = [sys.executable, "-m", f"benchmarks.{r.benchmark}", *shlex.split(r.flags)]
    run = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{shlex.join(words)} failed in {checkout}:\n{run.stderr.strip()}")
    printed = json.loads(run.stdout[run.stdout.index("{") :])
    if r.number not in printed:
        raise SystemExit(f"--number {r.number}: the benchmark prints {', '.join(printed)}")
    return float(printed[r.number])


def git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"git {shlex.join(words)}: {run.stderr.strip()}")
    return run.stdout.strip()


if __name__ == "__main__":
    cli.main(Recipe, measure)
