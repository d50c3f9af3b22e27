"""Schedules are functions of the step: nothing to precompute, nothing to save."""

import math


def cosine(
    step: int, steps: int, start: float, end: float, warmup: int = 0, floor: float = 0.0, plateau: bool = True
) -> float:
    """A line of `warmup` steps from `floor` to `start`, then a cosine towards `end`, which it never quite reaches.

    plateau=True is stage one's published form: the warm-up includes its end point, so the peak comes twice.
    plateau=False is stage two's: the line would meet the peak at step `warmup`.
    """
    if step < warmup:
        return floor + (start - floor) * step / max(1, warmup - plateau)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def ramp(epoch: int, epochs: int, start: float, end: float) -> float:
    """The teacher's temperature: a line from `start` to `end` over `epochs` epochs, both included, then constant."""
    return end if epoch >= epochs else start + (end - start) * epoch / max(1, epochs - 1)
