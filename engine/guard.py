"""What all ranks agree on at a step's end: whether somebody asked for a stop, and whether its numbers are finite."""

import torch
from torch import Tensor

from . import ranks


class Guard:
    """Collects losses without waiting for the device; `check` looks at them and makes the ranks agree."""

    def __init__(self):
        self._unchecked: list[tuple[int, Tensor]] = []
        self._row: list[Tensor] = []  # sums over checked steps, since the last row
        self._steps = 0  # how many those were

    def add(self, step: int, loss: Tensor, norm: Tensor | None = None) -> None:
        """A step's loss, which is from before the update, and the gradient norm where that must be finite too."""
        loss = loss.detach()
        self._unchecked.append((step, loss if norm is None else loss + 0 * norm))

    def check(self, asked: bool, row: bool = True) -> tuple[bool, float]:
        """(stop now?, mean loss over the ranks since the last check with row=True).

        FloatingPointError names the first step that was not finite.
        """
        steps, losses = zip(*self._unchecked, strict=True)
        self._unchecked = []
        losses = torch.stack(losses)
        bad = ~losses.isfinite()
        flags = ranks.largest(
            torch.stack([torch.as_tensor(asked, device=losses.device), bad.any()]).to(torch.int32)
        )
        stop, broken = flags.tolist()
        if broken:
            where = (
                steps[int(bad.int().argmax())]
                if bad.any()
                else f"{steps[0]} to {steps[-1]} of another rank"
            )
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {where}: stopped, the last saved checkpoint is "
                "intact; try a lower --lr, a longer warm-up, or --precision fp32"
            )
        self._row.append(losses.sum())
        self._steps += len(steps)
        mean = ranks.mean(torch.stack(self._row).sum() / self._steps).item()
        if row:
            self._row, self._steps = [], 0
        return bool(stop), mean
