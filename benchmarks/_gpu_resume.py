"""Part `resume` of gpu_report: with --deterministic a run that was stopped and resumed equals one that was not."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_needs import ROOT
from benchmarks._gpu_rows import Recipe, stream
from multicrop import cli
from multicrop.engine import checkpoint

SMALL = "--embed_dim 64 --num_layers 2 --num_heads 4"
STAGE_ONE = "train_ssl.py --recipe published --knn_freq 0 --local_crops_number 2 --out_dim 256 --batch_size_per_gpu 32"
STAGE_TWO = "finetune.py --recipe published --scratch --batch_size 32"
ROWS = {
    "train_ssl vit": f"{STAGE_ONE} --arch vit {SMALL}",
    "train_ssl resnet8": f"{STAGE_ONE} --arch resnet8",
    "train_ssl vit, compiled": f"{STAGE_ONE} --arch vit {SMALL} --compile true",
    "train_ssl vit, graph": f"{STAGE_ONE} --arch vit {SMALL} --compile true --graph true",
    "finetune vit": f"{STAGE_TWO} --arch vit {SMALL}",
    "finetune resnet8": f"{STAGE_TWO} --arch resnet8",
}
TINY = ("train_ssl resnet8",)


def measure(row: str, device: torch.device, tiny: bool) -> dict:
    """Whether all of the checkpoints is equal to the last bit; the names of what is not."""
    half = 1 if tiny else 10
    with tempfile.TemporaryDirectory() as temporary:
        whole, resumed = Path(temporary) / "whole", Path(temporary) / "resumed"
        _train(row, device, whole, 2 * half)
        _train(row, device, resumed, half)
        _train(row, device, resumed, 2 * half)
        states = [checkpoint.load(folder / checkpoint.NEWEST).state for folder in (whole, resumed)]
    names, differing = compare(*states)
    return {"equal": not differing, "compared": len(names), "differ": differing[:10]}


def _train(row: str, device: torch.device, folder: Path, steps: int) -> None:
    words = [*ROWS[row].split(), "--device", str(device), "--deterministic", "true"]
    words += ["--output_dir", str(folder), "--max_steps", str(steps)]
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"exit code {ended.returncode}: {said[-1]}")


def compare(one: Any, other: Any) -> tuple[list[str], list[str]]:
    """The names of all values of two states, and of those that are not equal to the last bit."""
    a, b = dict(values(one)), dict(values(other))
    names = sorted(a.keys() | b.keys())
    return names, [
        name for name in names if not (name in a and name in b and _equal(a[name], b[name]))
    ]


def values(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value of nested dictionaries and lists, by its path."""
    if isinstance(state, (dict, list, tuple)):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from values(value, f"{name}.{key}".lstrip("."))
    else:
        yield name, state


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


if __name__ == "__main__":
    cli.main(Recipe, lambda r: stream(r, measure))
