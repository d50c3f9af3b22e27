"""What stage one asks of an objective. A file of ssl/objectives/ that defines a subclass `Objective` is one.

An objective owns its head, its state (buffers, saved with the run), its own schedule and its statistics. It knows
nothing of devices, ranks or logging: what must be the same on all ranks it is given, or gives to be averaged.
B images, G global and L local crops, V = G + L views, K outputs of the head, D features of the backbone.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.nn as nn
from torch import Tensor

from ...config.pretrain import Recipe

Schedule = Mapping[str, Any]  # what changes from epoch to epoch, by name; it is logged
Average = Callable[[Tensor], Tensor]  # the mean of a tensor over the ranks


def alone(tensor: Tensor) -> Tensor:
    """The mean over the ranks where there is one."""
    return tensor


class BaseObjective(nn.Module):
    uses_teacher: ClassVar[bool] = True
    prototypes: int | None = None  # K where targets are distributions over prototypes
    uninformed_loss: float  # nats: the loss of a student that tells no images apart

    @classmethod
    def from_recipe(cls, recipe: Recipe, dim: int) -> "BaseObjective":
        """For features of width `dim`. ValueError where the recipe does not go with this objective."""
        raise NotImplementedError

    def build_head(self) -> nn.Module:
        """A new head: features (n, D) -> (n, K). Student and teacher have one each."""
        raise NotImplementedError

    def schedule(self, epoch: int) -> Schedule:
        """The objective's own numbers in an epoch, counted from 0."""
        return {}

    def targets(self, teacher: Tensor, schedule: Schedule, average: Average) -> Tensor | None:
        """What the student is to predict, from the teacher's outputs (G, B, K); no gradients."""
        return None

    def loss(self, student: Tensor, targets: Tensor | None) -> Tensor:
        """The student's outputs (V, B, K), global crops first, and the targets -> nats."""
        raise NotImplementedError

    def hold(self, head: nn.Module, schedule: Schedule) -> None:
        """Drop the gradients of what the schedule holds still, after the backward pass."""

    def observe(self, teacher: Tensor) -> dict[str, Tensor]:
        """What `update` needs to know of the teacher's outputs (G, B, K) of a batch, by name."""
        return {}

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Move the state at a step's end, by what was observed: means over its batches and the ranks."""

    def statistics(self, student: Tensor, targets: Tensor | None) -> dict[str, float]:
        """Numbers for the log, from the student's outputs and the targets of a batch."""
        return {}
