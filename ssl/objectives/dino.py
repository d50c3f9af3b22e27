"""DINO: cross-entropy from centred, sharpened teacher views to student views.

Caron et al. 2021 (arXiv 2104.14294), eq. 3 and section 3.1.
V student views, the first G of them also seen by the teacher; B images, K prototypes.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor

from ...config.pretrain import Method, Recipe
from ..head import Head
from ._base import Average, BaseObjective, Schedule, alone
from ._targets import sinkhorn, target_statistics


class Objective(BaseObjective):
    """centering: how targets are kept from collapsing to one prototype, by a running centre or by Sinkhorn-Knopp."""

    centre: Tensor  # (K,)
    method: Method  # set by from_recipe, as is the width of the features
    dim: int

    def __init__(
        self,
        prototypes: int,
        student_temp: float = 0.1,
        centre_momentum: float = 0.9,
        centering: Literal["centre", "sinkhorn"] = "centre",
    ):
        super().__init__()
        self.prototypes = prototypes
        self.uninformed_loss = math.log(prototypes)
        self.student_temp, self.centre_momentum, self.centering = (
            student_temp,
            centre_momentum,
            centering,
        )
        self.register_buffer("centre", torch.zeros(prototypes))

    @classmethod
    def from_recipe(cls, recipe: Recipe, dim: int) -> "Objective":
        method = recipe.method
        objective = cls(
            method.out_dim, method.student_temp, method.center_momentum, method.centering
        )
        objective.method, objective.dim = method, dim
        return objective

    def build_head(self) -> nn.Module:
        return Head(
            self.dim,
            self.method.out_dim,
            hidden=self.method.head_hidden_dim,
            bottleneck=self.method.head_bottleneck_dim,
            batch_norm=self.method.use_bn_in_head,
            norm_last_layer=self.method.norm_last_layer,
        )

    def schedule(self, epoch: int) -> Schedule:
        """The teacher's temperature, and whether the prototypes stay as they are."""
        method = self.method
        warmup, start, end = (
            method.warmup_teacher_temp_epochs,
            method.warmup_teacher_temp,
            method.teacher_temp,
        )
        return {
            "teacher_temp": ramp(epoch, warmup, start, end),
            "frozen": epoch < method.freeze_last_layer,
        }

    @torch.no_grad()
    def targets(self, teacher: Tensor, schedule: Schedule, average: Average = alone) -> Tensor:
        """Teacher logits (G, B, K) -> probabilities."""
        temperature = schedule["teacher_temp"]
        if self.centering == "sinkhorn":
            return sinkhorn(teacher.float() / temperature, average)
        return ((teacher.float() - self.centre) / temperature).softmax(-1)

    def loss(self, student: Tensor, targets: Tensor | None) -> Tensor:
        """Student logits (V, B, K), target probabilities (G, B, K) -> nats per pair of different views.

        The sum over v != g of log q_v is the sum over all v less the view's own: one pass instead of G x V.
        """
        assert targets is not None
        log_q = (student.float() / self.student_temp).log_softmax(-1)
        others = log_q.sum(0) - log_q[: len(targets)]
        pairs = len(targets) * (len(student) - 1)
        return -(targets * others).sum() / (pairs * student.shape[1])

    def hold(self, head: nn.Module, schedule: Schedule) -> None:
        """The prototypes stay as they are in the first epochs."""
        assert isinstance(head, Head)
        if schedule["frozen"]:
            for parameter in head.last_layer.parameters():
                parameter.grad = None

    def observe(self, teacher: Tensor) -> dict[str, Tensor]:
        """The mean logit (K,) over views and images."""
        if self.centering == "sinkhorn":
            return {}
        return {"mean_logit": teacher.float().mean((0, 1))}

    @torch.no_grad()
    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Move the centre towards the mean teacher logit (K,) over views, images and ranks."""
        if "mean_logit" in observed:
            self.centre.lerp_(observed["mean_logit"], 1.0 - self.centre_momentum)

    def statistics(self, student: Tensor, targets: Tensor | None) -> dict[str, float]:
        assert targets is not None
        return target_statistics(targets)


def ramp(epoch: int, epochs: int, start: float, end: float) -> float:
    """The teacher's temperature: a line from `start` to `end` over `epochs` epochs, both included, then constant."""
    if epoch >= epochs:
        return end
    return start + (end - start) * epoch / max(1, epochs - 1)
