"""SIGReg: views are drawn to the mean projection of their image, and all projections to a normal distribution.

Balestriero and LeCun 2025 (LeJEPA, arXiv 2511.08544): no teacher, no prototypes, no temperature. A view's projections
of the batch are looked at along random directions; on each, the Epps-Pulley statistic compares their characteristic
function with that of the standard normal distribution. B images a rank holds, G global and V views, K the width of the
projections, S directions, T knots.
"""

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ...config.pretrain import Recipe
from ._base import BaseObjective

DIRECTIONS = 256  # S, drawn anew for every loss
GLOBALS = 2  # G
KNOTS = 17  # T, of the trapezoidal rule
LARGEST = 3.0  # argument of the characteristic functions, which are even


class Objective(BaseObjective):
    """dim, hidden, projection: widths of the features, of the head's two hidden layers and of its output.

    share: what the distribution counts in the loss; the views' agreement counts the rest.
    """

    uses_teacher = False
    arguments: Tensor  # (T,) of the characteristic functions
    normal: Tensor  # (T,) that of the standard normal distribution
    weights: Tensor  # (T,) of the integral from -LARGEST to LARGEST, under a normal window

    def __init__(self, dim: int, hidden: int, projection: int, batch: int, share: float = 0.05):
        super().__init__()
        self.dim, self.hidden, self.projection, self.share = dim, hidden, projection, share
        arguments = torch.linspace(0, LARGEST, KNOTS)
        normal = torch.exp(-(arguments**2) / 2)
        widths = torch.full((KNOTS,), 2 * LARGEST / (KNOTS - 1))
        widths[[0, -1]] /= 2
        self.register_buffer("arguments", arguments, persistent=False)
        self.register_buffer("normal", normal, persistent=False)
        self.register_buffer("weights", widths * normal, persistent=False)
        self.uninformed_loss = share * self.distance(torch.zeros(1, batch, projection)).item()

    @classmethod
    def from_recipe(cls, recipe: Recipe, dim: int) -> "Objective":
        method, batch = recipe.method, recipe.optimisation.batch_size_per_gpu
        if batch < 2:
            raise ValueError(
                "--objective sigreg looks at the distribution of a batch: --batch_size_per_gpu 2 or more"
            )
        return cls(dim, method.head_hidden_dim, method.out_dim, batch, method.sigreg_share)

    def build_head(self) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in pairwise((self.dim, self.hidden, self.hidden)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden, self.projection))

    def loss(self, student: Tensor, targets: Tensor | None = None) -> Tensor:
        """Projections (V, B, K), global crops first -> a weighted mean of the two parts, in no unit."""
        student = student.float()
        return self.share * self.distance(student) + (1 - self.share) * disagreement(student)

    def statistics(self, student: Tensor, targets: Tensor | None = None) -> dict[str, float]:
        """The two parts of the loss."""
        student = student.float()
        return {
            "distance": self.distance(student).item(),
            "disagreement": disagreement(student).item(),
        }

    def distance(self, student: Tensor) -> Tensor:
        """Projections (V, B, K) -> mean Epps-Pulley statistic over views and directions."""
        directions = torch.randn(student.shape[-1], DIRECTIONS, device=student.device)
        along = student @ F.normalize(directions, dim=0)  # (V, B, S)
        angles = along.unsqueeze(-1) * self.arguments
        real, imaginary = angles.cos().mean(1), angles.sin().mean(1)
        squared = (real - self.normal) ** 2 + imaginary**2  # (V, S, T)
        return student.shape[1] * (squared @ self.weights).mean()


def disagreement(student: Tensor) -> Tensor:
    """Mean squared distance of each view's projection (V, B, K) from the mean of its image's global crops."""
    centre = student[:GLOBALS].mean(0)
    return (student - centre).square().mean()
