"""Fixed sinusoidal positions: Vaswani et al. 2017, arXiv 1706.03762, section 3.5."""

import torch
from torch import Tensor


def sinusoid(count: int, dim: int) -> Tensor:
    """The table (1, count, dim): position p, channel j has sin (even j) or cos (odd j) of p / 10000^(2 (j // 2) / dim).

    Angles are computed in double precision and rounded to float32 before the sine, as in the published code.
    """
    position = torch.arange(count, dtype=torch.float64)[:, None]
    channel = torch.arange(dim)
    exponent = 2 * (channel // 2).double() / dim
    angle = (position / 10000**exponent).float()
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return table[None]
