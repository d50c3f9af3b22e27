"""Several linear classifiers trained at once on the same features, each at its own learning rate.

The classifier is that of DINO's eval_linear.py (Caron et al. 2021, arXiv 2104.14294): weights of spread 0.01, SGD with
momentum and without weight decay. Several rates in one pass are DINOv2's (Oquab et al. 2023, arXiv 2304.07193).
B images, D width, R rates.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.01


class LinearHeads(nn.Module):
    """Features (B, D) -> logits (R, B, classes). All heads begin from the same weights, so that only rates differ."""

    def __init__(self, dim: int, classes: int, count: int) -> None:
        super().__init__()
        first = nn.Linear(dim, classes)
        nn.init.normal_(first.weight, std=SPREAD)
        nn.init.zeros_(first.bias)
        self.heads = nn.ModuleList(nn.Linear(dim, classes) for _ in range(count))
        for head in self.heads:
            head.load_state_dict(first.state_dict())

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.heads])

    def optimizer(self, rates: Sequence[float], momentum: float) -> torch.optim.SGD:
        """SGD that trains each head at its rate, which group["peak"] remembers."""
        groups = [
            {"params": head.parameters(), "lr": rate, "peak": rate}
            for head, rate in zip(self.heads, rates, strict=True)
        ]
        return torch.optim.SGD(groups, momentum=momentum, weight_decay=0.0)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (R, B, classes), labels (B,) -> each head's mean cross-entropy in nats (R,); their sum is what learns."""
    per_image = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return per_image.view(len(logits), -1).mean(1)
