"""Schedules are functions of the step: nothing to precompute, nothing to save."""

import math


def cosine(
    step: int,
    steps: int,
    start: float,
    end: float,
    warmup: int = 0,
    floor: float = 0.0,
    plateau: bool = True,
) -> float:
    """A line of `warmup` steps from `floor` to `start`, then a cosine towards `end`, which it never quite reaches.

    plateau=True is stage one's published form: the warm-up includes its end point, so the peak comes twice.
    plateau=False is stage two's: the line would meet the peak at step `warmup`.
    """
    if step < warmup:
        return floor + (start - floor) * step / max(1, warmup - plateau)
    return end + 0.5 * (start - end) * (
        1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))
    )


def epoch_cosine(
    epoch: float, epochs: int, peak: float, end: float, warmup: float = 0, floor: float = 0.0
) -> float:
    """A line of `warmup` epochs from `floor` towards `peak`, then a cosine as if it had begun at epoch 0, then `end`.

    The recipes of DHVT, LocalViT, the compact transformers and locality guidance, which set it once per epoch; a
    fraction of an epoch works as well. Epochs from `epochs` on are the compact transformers' cool-down. timm's
    scheduler gives the same numbers, but needs an optimizer and keeps a state.
    """
    if epoch < warmup:
        return floor + (peak - floor) * epoch / warmup
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * min(1.0, epoch / max(1, epochs))))


def scheduled_epoch(step: int, per_epoch: int, lag: int = 0) -> int:
    """The epoch whose rate holds at a step; lag=1 is that of DHVT and LocalViT, where epoch 0's rate comes twice."""
    return max(0, step // per_epoch - lag)


def learning_rate(
    step: int,
    per_epoch: int,
    *,
    schedule: str,
    epochs: int,
    peak: float,
    end: float,
    warmup: int,
    floor: float,
    lag: int,
) -> float:
    """Stage two's learning rate at a step, by `schedule`: cosine ("step") or epoch_cosine ("epoch"), then `end`."""
    if schedule == "epoch":
        return epoch_cosine(scheduled_epoch(step, per_epoch, lag), epochs, peak, end, warmup, floor)
    steps = epochs * per_epoch
    return cosine(
        min(step, steps), steps, peak, end, warmup * per_epoch, floor=floor, plateau=False
    )
