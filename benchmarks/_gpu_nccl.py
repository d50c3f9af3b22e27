"""Part `nccl` of gpu_report, under torchrun: an all-reduce of the published network's gradients, and a step with them.

Also with one process, which has a group of its own, so that one card shows whether NCCL starts.
"""

import statistics
from dataclasses import dataclass

import torch

from benchmarks import train_step
from benchmarks._machine import now
from multicrop import cli
from multicrop.engine import ranks

GRADIENTS = 3_500_000  # numbers: a ViT of 2.7 million and its head


@dataclass(frozen=True)
class Recipe:
    """Measure what processes pay for their agreement."""

    device: str = "cuda"
    """cuda (NCCL), or cpu (gloo) for a rehearsal."""
    tiny: bool = False
    """Small sizes: a rehearsal."""


def measure(r: Recipe) -> dict:
    device = ranks.start(r.device, group_of_one=True)
    size, repeats = (1000, 2) if r.tiny else (GRADIENTS, 30)
    world = ranks.world_size()
    numbers = torch.full((size,), float(ranks.rank()), device=device)
    mean = ranks.all_reduce_mean(numbers)
    taken = []
    for _ in range(repeats):
        start = now(device)
        ranks.all_reduce_mean(numbers)
        taken.append(now(device) - start)
    seconds = statistics.median(taken)
    settings = (
        {"arch": "resnet8", "batch_size": 4, "steps": 1, "repeats": 1}
        if r.tiny
        else {"batch_size": 256}
    )
    step = train_step.measure(
        train_step.Recipe(device=r.device, plain=False, whole=True, **settings)
    )
    return {
        "processes": world,
        "mean_is_right": bool((mean == (world - 1) / 2).all()),
        "all_reduce_ms": round(1000 * seconds, 3),
        "all_reduce_gb_per_second": round(4 * size / seconds / 1e9, 2),
        "ms_per_step": step["whole_ms_per_step"],
        "images_per_second_of_all": round(world * step["whole_images_per_second"], 1),
    }


if __name__ == "__main__":
    cli.main(Recipe, measure)
