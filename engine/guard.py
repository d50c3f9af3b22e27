"""What all ranks agree on at a step's end: whether somebody asked for a stop, and whether its numbers are finite."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import ranks

ADVICE = (
    "the last saved checkpoint is intact; try a lower --lr, a longer warm-up, or --precision fp32, "
    "in another --output_dir"
)


class Guard:
    """Collects losses without waiting for the device; `check` looks at them and makes the ranks agree."""

    def __init__(self, unlogged: Sequence[float] = ()) -> None:
        """unlogged: what `unlogged` said when the state was saved that a run goes on from."""
        self._unchecked: list[tuple[int, Tensor]] = []
        # Of checked steps since the last row, means over the ranks
        self._losses = [torch.tensor(unlogged)] if unlogged else []

    @property
    def unlogged(self) -> list[float]:
        """The losses of the steps since the last row, with which the next row's mean begins."""
        return torch.cat(self._losses).tolist() if self._losses else []

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
                f"the loss or its gradient is not finite at step {where}: stopped, {ADVICE}"
            )

        losses = ranks.all_reduce_mean(losses)
        self._losses = [*(part.to(losses.device) for part in self._losses), losses]
        mean = torch.cat(self._losses).mean().item()
        if row:
            self._losses = []
        return bool(stop), mean


def check_finite(state: Any, step: int) -> None:
    """FloatingPointError where a tensor of a state is not finite: what the update of a step with a finite loss can do.

    state: tensors in dictionaries and lists, as state_dict gives them. The ranks agree: states may differ between them.
    """
    finite = [tensor.isfinite().all() for tensor in _floats(state)]
    holds = not finite or bool(torch.stack([each.to(finite[0].device) for each in finite]).all())
    if not ranks.all_true(holds):
        raise FloatingPointError(f"weights are not finite after step {step}: not saved, {ADVICE}")


def _floats(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor) and state.is_floating_point():
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _floats(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _floats(value)
