"""Images per second of `multicrop predict` and `multicrop embed` against what this machine can decode and compute.

    python -m benchmarks.predict --out benchmarks/results/predict_cpu.json
    python -m benchmarks.predict --datapath photos --device cuda --image_size 224

Prints one JSON object. Bounds are measured in the same turn, on the same files. `decode`: our decoder, in as many
processes as predict has workers, and nothing else; their start is included. `forward`: transform and network, on
batches that lie in memory. Where the two have processors of their own (CUDA) the bound is the slower one. On a CPU they
share the processors, and the bound is the time of one after the other, each with all processors. `of_bound` is the
median over turns of images/s divided by the bound's. Where other work runs beside, `of_processor_time` counts instead:
processor seconds of decoding and network alone, divided by those of the command and its workers. Memory is the peak of
this process.
"""

import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks._machine import machine, now, status
from multicrop import cli, registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import embed, predict
from multicrop.config.embed import Recipe as Embed
from multicrop.config.flags import from_flags
from multicrop.config.predict import Recipe as Predict
from multicrop.datasets._convert import Form
from multicrop.datasets._workers import Decoders, processors
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.supervised.classifier import Classifier

PART = 256  # images that are decoded at a time
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Recipe:
    """Time predict and embed."""

    datapath: str | None = None
    """Folder of image files, any tree (None: files are written)."""
    files: int = 4000
    """Files that are written."""
    side: int = 64
    """Their side in pixels."""
    ending: str = "jpg"
    """Their format."""
    arch: str = "vit"
    """Backbone; its weights are random."""
    image_size: int = 32
    """Side in pixels at which it sees images."""
    batch_size: int = 256
    """Images per forward pass."""
    workers: int | None = None
    """Decoding processes (None: one per processor)."""
    repeats: int = 3
    """Turns."""
    device: str = "cpu"
    """cpu or cuda."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict[str, Any]:
    device = torch.device(r.device)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(r.datapath) if r.datapath else write(Path(work) / "images", r)
        model = save_model(Path(work) / "model.pt", r)
        names = registry.source("images").listing(folder, "train").names
        paths = [str(folder / name) for name in names]
        commands = {
            "predict": lambda: predict.run(recipe_of(Predict, r, model, folder, work, "csv")),
            "embed": lambda: embed.run(recipe_of(Embed, r, model, folder, work, "npz")),
        }
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(r.repeats):
            bound = bounds(r, paths, model, device)
            for name, command in commands.items():
                turns[name].append(bound | against(bound, timed(command, device), len(paths)))
        found = {
            "what": "predict and embed against decode and forward bounds",
            "settings": asdict(r),
            "machine": machine(device)
            | {"cores": processors(), "load": round(os.getloadavg()[0], 1)},
            "images": len(paths),
            **{name: medians(of_command) for name, of_command in turns.items()},
            "peak_memory_mb": round(status(os.getpid(), "VmHWM"), 1),
        }
    if r.out:
        Path(r.out).write_text(json.dumps(found, indent=1) + "\n")
    return found


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """Of each number."""
    return {name: round(statistics.median(turn[name] for turn in turns), 4) for name in turns[0]}


# Bounds


def bounds(r: Recipe, paths: list[str], model: Path, device: torch.device) -> dict[str, float]:
    """Seconds, and processor seconds, in which these images are decoded, and go through the network, alone."""

    def decode() -> None:
        decoders = Decoders(r.workers or processors(), Form((r.image_size, r.image_size), False))
        for start in range(0, len(paths), PART):
            decoders.decode(paths[start : start + PART])

    decoding = timed(decode, device)
    network = build(r).to(device)
    transform = EvalTransform(r.image_size, MEAN, STD)
    pixels = torch.zeros(r.batch_size, 3, r.image_size, r.image_size, dtype=torch.uint8)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(0, len(paths), r.batch_size):
            network(transform(pixels.to(device)))

    forward()
    computing = timed(forward, device)
    both = decoding["seconds"] + computing["seconds"]
    if device.type == "cuda":
        both = max(decoding["seconds"], computing["seconds"])
    return {
        "decode_per_second": len(paths) / decoding["seconds"],
        "forward_per_second": len(paths) / computing["seconds"],
        "bound_per_second": len(paths) / both,
        "processor_seconds_of_bound": decoding["processor"] + computing["processor"],
    }


def against(bound: dict[str, float], spent: dict[str, float], images: int) -> dict[str, float]:
    speed = images / spent["seconds"]
    return {
        "images_per_second": speed,
        "of_bound": speed / bound["bound_per_second"],
        "of_processor_time": bound["processor_seconds_of_bound"] / spent["processor"],
    }


def timed(work: Any, device: torch.device) -> dict[str, float]:
    """Seconds, and processor seconds of this process and all below it."""
    start, processor = now(device), processor_seconds()
    work()
    return {"seconds": now(device) - start, "processor": processor_seconds() - processor}


def processor_seconds() -> float:
    """Of this process, and of its children whether they have ended or not."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    ticks = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


# What is measured


def recipe_of(
    recipe_type: Any, r: Recipe, model: Path, folder: Path, work: str, ending: str
) -> Any:
    settings = {"device": r.device, "batch_size": r.batch_size, "workers": r.workers}
    output = str(Path(work) / f"out.{ending}")
    words = {"model": str(model), "images": (str(folder),), "output": output}
    return from_flags(recipe_type, {**settings, **words, "precision": "fp32"})


def build(r: Recipe) -> Classifier:
    torch.manual_seed(0)
    return Classifier(registry.backbone(r.arch, r.image_size), 10).eval()


def save_model(path: Path, r: Recipe) -> Path:
    options = {"arch": r.arch, "image_size": r.image_size, "in_channels": 3}
    data = {"dataset": "images", "classes": [*map(str, range(10))], "mean": MEAN, "std": STD}
    metadata = Metadata("finetune", backbone=options, data=data)
    checkpoint.save(Checkpoint(metadata, {"model": build(r).state_dict()}), path)
    return path


def write(folder: Path, r: Recipe) -> Path:
    """Files with the detail of photographs: noise that is smooth on several scales."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(r.files):
        image = np.zeros((r.side, r.side, 3))
        for cells in (2, 8, r.side):
            coarse = Image.fromarray(random.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
            image += np.asarray(coarse.resize((r.side, r.side), Image.Resampling.BICUBIC)) / 3
        picture = Image.fromarray(image.astype(np.uint8))
        picture.save(folder / f"{number:06d}.{r.ending}")
    return folder


if __name__ == "__main__":
    cli.main(Recipe, measure)
