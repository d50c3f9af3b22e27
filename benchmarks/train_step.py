"""Where the time of a pretraining step goes, and how it compares with a straightforward implementation.

    python -m benchmarks.train_step --out benchmarks/results/train_step_cpu.json
    python -m benchmarks.train_step --arch swin --plain false --precision bf16

Prints one JSON object: images/s, milliseconds by part, peak memory, achieved FLOP/s and their share of the rate of a
plain matrix product on the same device. With --plain the same step written straightforwardly (benchmarks/_plain.py)
runs in turns with ours on the same crops; the ratio is the median over the repeats. With --whole the command's own step
is timed, too, waiting for the device at the end alone: on a GPU the clock of the parts keeps it from working ahead.
"""

import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._machine import machine, now, status
from benchmarks._plain import PlainStep
from multicrop import cli
from multicrop.commands import pretrain
from multicrop.commands._data import pretraining_images
from multicrop.commands._student import build
from multicrop.config.flags import from_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import graphs, optim, ranks, seeds
from multicrop.engine.batches import Batches
from multicrop.engine.precision import autocast_dtype
from multicrop.ssl.teacher import update_ema

SHARED = (
    "arch", "image_size", "patch_size", "local_crops_number", "out_dim", "compile", "graph",
)  # fmt: skip
SCHEDULE = {"teacher_temp": 0.04, "frozen": False}


@dataclass(frozen=True)
class Recipe:
    """Time a pretraining step."""

    arch: str = "vit"
    """Backbone."""
    image_size: int = 32
    """Side of the global crops in pixels."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    batch_size: int = 64
    """Images per step."""
    local_crops_number: int = 8
    """Local crops per image."""
    out_dim: int = 1024
    """Prototypes."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16."""
    compile: bool = False
    """torch.compile both encoders, and on CUDA the crops."""
    graph: bool = False
    """What is compiled as CUDA graphs, on CUDA."""
    steps: int = 4
    """Steps per repeat."""
    repeats: int = 5
    """Repeats; medians are reported."""
    plain: bool = True
    """Compare with the straightforward implementation (vit only)."""
    whole: bool = False
    """Also time whole steps, without waiting for the device between their parts."""
    threads: int | None = None
    """CPU threads (None: torch's choice)."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(b: Recipe) -> dict:
    if b.threads:
        torch.set_num_threads(b.threads)
    device = ranks.start(b.device)
    cast = autocast_dtype(b.precision, device)
    flags = {name: value for name, value in asdict(b).items() if name in SHARED}
    r = from_flags(Pretraining, {**flags, "batch_size_per_gpu": b.batch_size, "knn_freq": 0})
    images, _ = pretraining_images(r)
    batches = Batches(images.pixels, None, b.batch_size, seed=0, device=device)
    crop = pretrain.build_crops(r, images, device)
    nets = build(r, images.pixels.shape[1], device)
    clock = Clock(device)
    for step in range(2):  # warm-up: allocators, compilation, autotuning
        parts(clock, nets, batches, crop, r, step, cast)
    if graphs.left_out:
        raise RuntimeError(f"no CUDA graphs: {graphs.left_out[0]}")
    # Counted on the plain code: what a compiler writes itself is not seen
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        parts(clock, nets, batches, crop, r, 0, cast)
    plain = PlainStep(r, nets.student.backbone, device) if b.plain and b.arch == "vit" else None
    crops = next(pretrain.cut_crops(batches, crop, 0, 0))
    rows, ratios, wholes = [], [], []
    if b.whole:
        whole(nets, batches, crop, r, 2, cast, device)
    for _ in range(b.repeats):
        clock.reset()
        for step in range(b.steps):
            parts(clock, nets, batches, crop, r, step, cast)
        rows.append({name: 1000 * seconds / b.steps for name, seconds in clock.seconds.items()})
        if plain:
            ratios.append(compare(nets, plain, crops, r, b.steps, cast, device))
        if b.whole:
            wholes.append(whole(nets, batches, crop, r, b.steps, cast, device))
    found = result(b, device, cast, rows, ratios, wholes, counter.get_total_flops())
    if b.out and ranks.rank() == 0:
        Path(b.out).write_text(json.dumps(found, indent=1) + "\n")
    return found


def parts(clock, nets, batches, crop, r, step, cast) -> None:
    """One step of pretrain.update, taken apart."""
    device = clock.device
    batch = clock("data", lambda: next(batches.step(step)))
    drawn = clock(
        "crops",
        lambda: crop.draw(
            batches.total, *batch.images.shape[-2:], seeds.generator(0, "crops", step)
        ),
    )
    crops = clock("crops", lambda: crop(batch.images, drawn[batch.rank_slice].to(device)))
    nets.optimizer.zero_grad()
    with torch.autocast(device.type, cast, enabled=cast is not None):
        with torch.no_grad():
            logits = clock("teacher", lambda: nets.teacher(crops.globals).outputs)
        views = clock("student", lambda: nets.train_module(crops.globals, crops.locals).outputs)
        loss = clock(
            "objective",
            lambda: nets.objective.loss(views, nets.objective.targets(logits, SCHEDULE)),
        )
    clock("backward", loss.backward)

    def finish():
        optim.clip_per_parameter(nets.student.parameters(), r.optimisation.clip_grad)
        nets.optimizer.step()
        update_ema(nets.teacher, nets.student, 0.996)
        nets.objective.update(nets.objective.observe(logits))

    clock("optimizer and EMA", finish)


def compare(nets, plain, crops, r, steps, cast, device) -> dict[str, float]:
    """Milliseconds a step on the same crops, ours and straightforward, in turns."""
    rates = pretrain.Rates(1e-4, 0.04, 0.996)
    seconds = {"ours": 0.0, "plain": 0.0}
    for step in range(steps):
        start = now(device)
        pretrain.update(nets, [crops], rates, SCHEDULE, r, cast, step)
        middle = now(device)
        plain(crops.globals, crops.locals, cast)
        seconds["ours"] += middle - start
        seconds["plain"] += now(device) - middle
    return {name: 1000 * value / steps for name, value in seconds.items()}


def whole(nets, batches, crop, r, steps, cast, device) -> float:
    """Milliseconds a step as the command takes it, which waits for the device at the end alone."""
    rates = pretrain.Rates(1e-4, 0.04, 0.996)
    start = now(device)
    for step in range(steps):
        crops = pretrain.cut_crops(batches, crop, 0, step)
        pretrain.update(nets, crops, rates, SCHEDULE, r, cast, step)
    return 1000 * (now(device) - start) / steps


class Clock:
    """Adds up the seconds of named parts; waits for the device around each."""

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work):
        start = now(self.device)
        value = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + now(self.device) - start
        return value


def ceiling(device: torch.device, cast: torch.dtype | None) -> float:
    """FLOP/s of a large matrix product in the step's arithmetic: the best of several."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=cast or torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2 * n**3 / best


def result(
    b: Recipe,
    device: torch.device,
    cast: torch.dtype | None,
    rows: list[dict],
    ratios: list[dict],
    wholes: list[float],
    flops: int,
) -> dict:
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    step = statistics.median(sum(row.values()) for row in rows)
    memory = peak(device)  # before there are large matrices
    top = ceiling(device, cast)
    found = {
        "what": "pretraining step",
        "settings": asdict(b),
        "machine": machine(device),
        "images_per_second": round(1000 * b.batch_size / step, 1),
        "ms_per_step": round(step, 2),
        "ms_by_part": medians,
        "gflop_per_step": round(flops / 1e9, 1),
        "gflop_per_second": round(flops / step / 1e6, 1),
        "ceiling_gflop_per_second": round(top / 1e9, 1),
        "share_of_ceiling": round(flops / (step / 1000) / top, 3),
        "peak_memory_mb": memory,
    }
    if ratios:
        found["straightforward"] = {
            "ms_per_step": round(statistics.median(row["plain"] for row in ratios), 2),
            "ours_ms_per_step_on_the_same_crops": round(
                statistics.median(row["ours"] for row in ratios), 2
            ),
            "speedup_median": round(
                statistics.median(row["plain"] / row["ours"] for row in ratios), 3
            ),
            "speedups": [round(row["plain"] / row["ours"], 3) for row in ratios],
        }
    if wholes:
        taken = statistics.median(wholes)
        found["whole_ms_per_step"] = round(taken, 3)
        found["whole_images_per_second"] = round(1000 * b.batch_size / taken, 1)
        found["whole_share_of_ceiling"] = round(flops / (taken / 1000) / top, 3)
    return found


def peak(device: torch.device) -> float:
    """Of the device for CUDA, else of the whole process (torch itself takes about 400)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return round(status(os.getpid(), "VmHWM"), 1)


if __name__ == "__main__":
    cli.main(Recipe, measure)
