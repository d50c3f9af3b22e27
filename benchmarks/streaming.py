"""Images per second streamed from JPEG files, against what this machine can decode at most; and memory over epochs.

    python -m benchmarks.streaming --out benchmarks/results/streaming_cpu.json
    python -m benchmarks.streaming --datapath photos --workers 1 2

Prints one JSON object. Without --datapath it first writes JPEG files of 256 to 500 px with the detail of photographs.
For each number of workers: images/s through Batches, as training takes them, and of as many processes that only decode:
with Pillow, with torchvision, and as our decoder does (Pillow, decoding at a fraction where that is enough, resize,
centre crop). They run in turns, medians count; `of_decoder` is the median of the turns' ratios, the price of order,
pipes and batches. Files are read before, so the disk plays no part. Memory is that of this process and its workers.
"""

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks._machine import machine, status
from multicrop import cli
from multicrop.datasets import _decode
from multicrop.datasets._convert import Form
from multicrop.datasets._stream import Streamed
from multicrop.engine.batches import Batches
from multicrop.registry import source

SIDES = (256, 500)  # of the files that are written, pixels
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """Time the streaming of image files."""

    datapath: str | None = None
    """Folder of JPEG files, any tree (None: files are written)."""
    files: int = 1000
    """Images per epoch; of --datapath so many are taken, spread over it."""
    source_size: int = 256
    """Side in pixels to which images are brought."""
    batch: int = 50
    """Images per batch."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of decoding processes."""
    epochs: int = 3
    """Epochs over which memory is watched."""
    repeats: int = 3
    """Turns."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(r.datapath) if r.datapath else write(Path(folder), r.files)
        names = source("images").listing(root, "train").names
        paths = [str(root / name) for name in names[:: max(1, len(names) // r.files)][: r.files]]
        found = {
            "what": "streaming of image files",
            "settings": asdict(r),
            "machine": machine(CPU)
            | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            "files": described(paths),
            "images_per_second": {str(count): speeds(r, paths, count) for count in r.workers},
            "memory_mb_by_epoch": memory(r, paths, max(r.workers)),
        }
    if r.out:
        Path(r.out).write_text(json.dumps(found, indent=1) + "\n")
    return found


def speeds(r: Recipe, paths: list[str], workers: int) -> dict[str, float]:
    """Medians over the turns."""
    streamed = Streamed(paths, paths, None, r.source_size, workers)
    epoch(r, streamed)  # starts the workers
    shares = [(paths[share::workers], r.source_size) for share in range(workers)]
    turns: dict[str, list[float]] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for turn in range(r.repeats + 1):  # in the first they import what they need
            times = {"streamed": rate(lambda: epoch(r, streamed), len(paths))}
            for work in (pillow, torchvision, decoder):
                times[work.__name__] = rate(lambda work=work: [*pool.map(work, shares)], len(paths))
            for name, value in times.items() if turn else ():
                turns.setdefault(name, []).append(value)
    ratios = [a / b for a, b in zip(turns["streamed"], turns["decoder"], strict=True)]
    return {name: round(statistics.median(values), 1) for name, values in turns.items()} | {
        "of_decoder": round(statistics.median(ratios), 3)
    }


def rate(work: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


def epoch(r: Recipe, pixels: Streamed) -> None:
    """One epoch of batches; the last two are only decoded, since those after them would be asked for too."""
    batches = Batches(pixels, None, r.batch, seed=0, device=CPU)
    for step in range(batches.steps_per_epoch - 2):
        list(batches.step(step))
    for ahead in batches._reads.values():
        ahead.result()


def pillow(share: tuple[list[str], int]) -> None:
    for path in share[0]:
        with Image.open(path) as image:
            image.convert("RGB")


def torchvision(share: tuple[list[str], int]) -> None:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    torch.set_num_threads(1)
    for path in share[0]:
        decode_jpeg(read_file(path), ImageReadMode.RGB)


def decoder(share: tuple[list[str], int]) -> None:
    for path in share[0]:
        _decode.read(path, Form((share[1], share[1]), exact=False), Counter())


def memory(r: Recipe, paths: list[str], workers: int) -> list[dict[str, float]]:
    """At each epoch's end: resident memory now and at most so far, of this process and of all workers, in MB."""
    streamed, seen = Streamed(paths, paths, None, r.source_size, workers), []
    for _ in range(r.epochs):
        epoch(r, streamed)
        others = [worker.process.pid for worker in streamed._decoders._workers]
        seen.append(
            {
                name: round(sum(status(pid, field) for pid in pids), 1)
                for name, pids, field in (
                    ("process", [os.getpid()], "VmRSS"),
                    ("process_peak", [os.getpid()], "VmHWM"),
                    ("workers", others, "VmRSS"),
                    ("workers_peak", others, "VmHWM"),
                )
            }
        )
    return seen


def described(paths: list[str]) -> dict:
    sizes = [_decode.size(path) for path in paths]
    return {
        "count": len(paths),
        "width": [min(w for w, _ in sizes), max(w for w, _ in sizes)],
        "height": [min(h for _, h in sizes), max(h for _, h in sizes)],
        "kilobytes": round(sum(os.path.getsize(path) for path in paths) / len(paths) / 1024, 1),
    }


def write(folder: Path, files: int) -> Path:
    """JPEG files of random sizes: noise of many scales, its amplitude falling with the frequency as in photographs."""
    random = np.random.default_rng(0)
    for number in range(files):
        width, height = (int(side) for side in random.integers(*SIDES, 2))
        image = np.zeros((height, width, 3), np.float32)
        for octave in (4, 8, 16, 32, 64, 128):
            grid = random.integers(0, 256, (octave, octave, 3), np.uint8)
            field = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
            image += (np.asarray(field, np.float32) - 128) * (4 / octave) ** 0.8
        Image.fromarray((image + 128).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:05d}.jpg", quality=90
        )
    return folder


if __name__ == "__main__":
    cli.main(Recipe, measure)
