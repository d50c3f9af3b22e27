"""SimCLR: each global crop finds the other one of its image among all global crops of the batch (NT-Xent).

Chen et al. 2020 (arXiv 2002.05709), eq. 1, and section 2 for the head, which has one hidden layer. The other images of
the batch that a rank holds are the negatives. B images, K the width of the projections.
"""

import math

import torch.nn as nn
from torch import Tensor

from ...config.pretrain import Recipe
from ..contrast import nt_xent, similarities
from ._base import BaseObjective


class Objective(BaseObjective):
    """dim, hidden, projection: widths of the features, of the head's hidden layer and of its output."""

    uses_teacher = False

    def __init__(
        self, dim: int, hidden: int, projection: int, batch: int, temperature: float = 0.1
    ):
        super().__init__()
        self.dim, self.hidden, self.projection, self.temperature = (
            dim,
            hidden,
            projection,
            temperature,
        )
        self.uninformed_loss = math.log(2 * batch - 1)

    @classmethod
    def from_recipe(cls, recipe: Recipe, dim: int) -> "Objective":
        method, batch = recipe.method, recipe.optimisation.batch_size_per_gpu
        if recipe.crops.local_crops_number:
            raise ValueError(
                "--objective simclr compares the two global crops: give --local_crops_number 0"
            )
        if batch < 2:
            raise ValueError(
                "--objective simclr needs other images in the batch: --batch_size_per_gpu 2 or more"
            )
        return cls(dim, method.head_hidden_dim, method.out_dim, batch, method.student_temp)

    def build_head(self) -> nn.Module:
        hidden = nn.Sequential(
            nn.Linear(self.dim, self.hidden), nn.BatchNorm1d(self.hidden), nn.ReLU()
        )
        return nn.Sequential(*hidden, nn.Linear(self.hidden, self.projection))

    def loss(self, student: Tensor, targets: Tensor | None = None) -> Tensor:
        """Projections (2, B, K) -> nats per crop."""
        return nt_xent(student, self.temperature)

    def statistics(self, student: Tensor, targets: Tensor | None = None) -> dict[str, float]:
        """contrast_top1: percent of the crops whose most similar crop is the other one of their image."""
        similarity, partners = similarities(student, self.temperature)
        hits = similarity.argmax(1) == partners
        return {"contrast_top1": 100 * hits.float().mean().item()}
