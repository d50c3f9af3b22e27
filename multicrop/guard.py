"""What all ranks must agree on at a step's end: whether somebody asked for a stop, and whether the loss is finite."""

import torch
from torch import Tensor

from . import ranks


class Guard:
    """Collects losses without waiting for the device; `check` looks at them and makes the ranks agree."""

    def __init__(self):
        self._losses: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor) -> None:
        self._losses.append((step, loss.detach()))

    def check(self, asked: bool) -> tuple[bool, float]:
        """(stop now?, mean loss since the last check). FloatingPointError names the first step that was not finite."""
        steps, losses = zip(*self._losses, strict=True)
        self._losses = []
        losses = torch.stack(losses)
        bad = ~losses.isfinite()
        flags = ranks.largest(torch.stack([torch.as_tensor(asked, device=losses.device), bad.any()]).to(torch.int32))
        stop, broken = flags.tolist()
        if broken:
            where = steps[int(bad.int().argmax())] if bad.any() else f"{steps[0]} to {steps[-1]} of another rank"
            raise FloatingPointError(
                f"the loss is not finite at step {where}: stopped, the last saved checkpoint is intact; "
                "try a lower --lr, a longer warm-up, or --precision fp32"
            )
        return bool(stop), ranks.mean(losses.mean()).item()
