"""Sequence pooling: Hassani et al. 2021, arXiv 2104.05704, section 3.2."""

import torch.nn as nn
from torch import Tensor


class SequencePool(nn.Linear):
    """Tokens (B, N, D) -> their mean (B, D) with weights that are the softmax over the tokens of a learned score."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = super().forward(x).softmax(dim=1)
        pooled = weights.transpose(1, 2) @ x
        return pooled[:, 0]
