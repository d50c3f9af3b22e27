"""Weights, images/s and peak memory of every backbone at one image size, each in a process of its own.

    python -m benchmarks.backbones --out benchmarks/results/backbones_cpu.json --seconds 120 --docs docs/models.md

A pretraining step through benchmarks/train_step.py. Results are written after each backbone, and a second run with the
same settings goes on where the first was stopped; a backbone that takes longer than --seconds is recorded without a
rate. --docs rewrites the table between the marks in that page. Prints one JSON object.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn as nn

from benchmarks._machine import machine
from multicrop import cli, registry
from multicrop.engine import ranks

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- benchmarks/backbones.py writes from here -->", "<!-- to here -->")
COLUMNS = ("images_per_second", "ms_per_step", "peak_memory_mb")
NO_SETTINGS = (
    "names",
    "skip",
    "seconds",
    "out",
    "docs",
)  # what may change between the runs that fill one file


@dataclass(frozen=True)
class Recipe:
    """Measure every backbone."""

    names: tuple[str, ...] = ()
    """Backbones to measure (none: all that are not in --out yet and that --skip does not name)."""
    skip: str = r"_sine|_c100$|_fl$"
    """Regular expression of names left out: these differ from others in a table of positions or in the classifier."""
    seconds: float = 120
    """Longest time for one backbone, its process's start included; 0 measures nothing."""
    image_size: int = 32
    """Side of the global crops in pixels."""
    batch_size: int = 4
    """Images per step, each with 2 global and 8 local crops."""
    steps: int = 1
    """Steps per repeat."""
    repeats: int = 3
    """Repeats; medians are reported."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    out: str = "benchmarks/results/backbones_cpu.json"
    """File of the results."""
    docs: str | None = None
    """Page whose table is rewritten from the results."""


def measure(b: Recipe) -> dict:
    settings = {key: value for key, value in asdict(b).items() if key not in NO_SETTINGS}
    found = _results(Path(b.out), settings)
    known = {
        name: module.VARIANTS[name].get("image_size")
        for name, module in registry.variants().items()
    }
    families = {name: None for name in registry.names("models") if name != "timm"}
    sizes = families | known
    done = {
        name
        for name, row in found["backbones"].items()
        if {"images_per_second", "unmeasured"} & row.keys()
    }
    left = [name for name in sizes if name not in done and not (b.skip and re.search(b.skip, name))]
    for name in b.names or left:
        ranks.log(name)
        found["backbones"][name] = size_of(name, b.image_size, sizes.get(name)) | (
            rate(name, b) if b.seconds else {}
        )
        Path(b.out).write_text(json.dumps(found, indent=1) + "\n")
    if b.docs:
        rewrite(Path(b.docs), table(found["backbones"], b.image_size))
    return found


def _results(out: Path, settings: dict) -> dict:
    """What an earlier run has left, else an empty result. ValueError where its settings differ."""
    empty = {
        "what": "backbones in a pretraining step",
        "settings": settings,
        "machine": machine(torch.device("cpu")),
    }
    if not out.exists():
        return {**empty, "backbones": {}}
    found = json.loads(out.read_text())
    if found["settings"] != settings:
        raise ValueError(
            f"{out} was measured with other settings: give another --out, or delete it"
        )
    return found


def size_of(name: str, image_size: int, published: int | None) -> dict:
    """Features and trainable numbers without classifier, at `image_size` and at the published size."""
    model = registry.backbone(name, image_size)
    row = {"features": model.dim, "weights": weights(model), "published_image_size": published}
    if published:
        row["weights_at_published_size"] = weights(registry.backbone(name, published))
    return row


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def rate(name: str, b: Recipe) -> dict:
    """The numbers of benchmarks/train_step.py, or why there are none."""
    flags = {
        key: getattr(b, key)
        for key in ("image_size", "batch_size", "steps", "repeats", "threads", "device")
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "step.json"
        flags |= {"arch": name, "precision": b.precision, "plain": "false", "out": out}
        words = [sys.executable, "-m", "benchmarks.train_step"]
        words += [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        try:
            subprocess.run(
                words, check=True, cwd=ROOT, capture_output=True, text=True, timeout=b.seconds
            )
        except subprocess.TimeoutExpired:
            return {"unmeasured": f"more than {b.seconds:g} s"}
        except subprocess.CalledProcessError as error:
            return {"unmeasured": error.stderr.strip().splitlines()[-1]}
        step = json.loads(out.read_text())
    return {column: step[column] for column in COLUMNS}


def table(rows: dict[str, dict], image_size: int) -> str:
    """The rows as Markdown, families first."""
    lines = [
        f"| name | features | weights at {image_size} px | at the published size | images/s | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        size = row["published_image_size"]
        published = f"{row['weights_at_published_size']:,} ({size} px)" if size else ""
        speed = row.get("unmeasured") or row.get("images_per_second", "")
        cells = [
            f"`{name}`",
            row["features"],
            f"{row['weights']:,}",
            published,
            speed,
            row.get("peak_memory_mb", ""),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def rewrite(page: Path, text: str) -> None:
    """Replace what stands between the marks. ValueError where a page has none."""
    content = page.read_text()
    if not all(mark in content for mark in MARKS):
        raise ValueError(f"{page} has no marks {MARKS[0]!r} and {MARKS[1]!r} to write between")
    before, rest = content.split(MARKS[0], 1)
    page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}")


if __name__ == "__main__":
    cli.main(Recipe, measure)
