"""What all ranks agree on at a step's end: whether somebody asked for a stop, and whether its numbers are finite."""

import torch
from torch import Tensor

from . import ranks


class Guard:
    """Collects losses without waiting for the device; `check` looks at them and makes the ranks agree."""

    def __init__(self) -> None:
        self._unchecked: list[tuple[int, Tensor]] = []
        self._sums: list[Tensor] = []  # of the losses of checked steps, since the last row
        self._steps = 0  # how many those were

    def add(self, step: int, loss: Tensor, norm: Tensor | None = None) -> None:
        """A step's loss, which is from before the update, and the gradient norm where that must be finite too."""
        loss = loss.detach()
        if norm is not None:
            loss = torch.where(norm.isfinite(), loss, torch.nan)
        self._unchecked.append((step, loss))

    def check(self, asked: bool, row: bool = True) -> tuple[bool, float]:
        """(stop now?, mean loss over the ranks since the last check with row=True).

        FloatingPointError names the first step that was not finite.
        """
        steps = [step for step, _ in self._unchecked]
        losses = torch.stack([loss for _, loss in self._unchecked])
        self._unchecked = []

        # Every rank learns what happened on any of them.
        bad = ~losses.isfinite()
        flags = torch.stack([torch.full_like(bad[0], asked), bad.any()])
        stop, broken = ranks.all_reduce_max(flags.to(torch.int32)).tolist()
        if broken:
            where: int | str = f"{steps[0]} to {steps[-1]} of another rank"
            if bad.any():
                where = steps[int(bad.int().argmax())]
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {where}: stopped, the last saved checkpoint is "
                "intact; try a lower --lr, a longer warm-up, or --precision fp32"
            )

        self._sums.append(losses.sum())
        self._steps += len(steps)
        mean = ranks.all_reduce_mean(torch.stack(self._sums).sum() / self._steps).item()
        if row:
            self._sums, self._steps = [], 0
        return bool(stop), mean
