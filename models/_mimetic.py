"""First values of a transformer's attention that look like those of trained ones.

Trockman and Kolter 2023, "Mimetic initialization of self-attention layers" (arXiv 2305.09828), section 3: the product
of the query's and the key's matrices is near the identity, that of the value's and the projection's near its negative,
and positions are sinusoids. d is a head's width, D the network's.
"""

from typing import Any

import torch
from torch import Tensor

from ._sinusoid import sinusoid

NOISE, IDENTITY = 0.7, 0.7  # of queries and keys, the paper's alpha_1 and beta_1
VALUE_NOISE, VALUE_IDENTITY = 0.4, -0.4  # of values and projections


@torch.no_grad()
def initialise(network: Any) -> None:
    """Set a ViT's attention layers and its table of positions (1, 1 + h * w, D), but the class token's row."""
    for block in network.blocks:
        _attention(block.attn.qkv.weight, block.attn.proj.weight, block.attn.num_heads)
    network.pos_embed[:, 1:] = _positions(network.patch_embed.grid_size, network.embed_dim)


def _attention(qkv: Tensor, projection: Tensor, heads: int) -> None:
    """qkv (3 D, D), projection (D, D)."""
    query, key, value = qkv.chunk(3)
    for head_query, head_key in zip(query.chunk(heads), key.chunk(heads), strict=True):
        left, right = _factors(_near_identity(qkv.shape[1], NOISE, IDENTITY), len(head_query))
        head_query.copy_(left.T)
        head_key.copy_(right)
    left, right = _factors(_near_identity(qkv.shape[1], VALUE_NOISE, VALUE_IDENTITY), qkv.shape[1])
    projection.copy_(left)
    value.copy_(right)


def _near_identity(width: int, noise: float, identity: float) -> Tensor:
    return noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(D, rank) and (rank, D), whose product is the nearest to a matrix (D, D)."""
    left, values, right = torch.linalg.svd(matrix)
    roots = values[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _positions(grid: tuple[int, int], width: int) -> Tensor:
    """(h * w, D): the first half of the channels says the row, the second the column."""
    height, breadth = grid
    rows = sinusoid(height, width // 2)[0]
    columns = sinusoid(breadth, width - width // 2)[0]
    return torch.cat([rows.repeat_interleave(breadth, 0), columns.repeat(height, 1)], dim=1)
