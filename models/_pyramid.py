"""The four stages of a pyramid vision transformer: Wang et al. 2021, arXiv 2102.12122, table 1."""

from typing import NamedTuple

import torch

from ._maps import Map
from ._sizes import check_heads, check_layers

GROWTH = (1, 2, 5, 8)  # widths and heads, in units of the first stage's
MLP_GROWTH = (2, 2, 1, 1)  # MLP ratios, in units of the last stage's
REDUCTIONS = (8, 4, 2, 1)  # keys and values: one for so many tokens along each axis
LATER_STRIDE = 2  # of the patches of every stage after the first, in steps of the map before


class StageSizes(NamedTuple):
    """What the blocks of one stage are built from; one rate of stochastic depth for each of them."""

    width: int
    heads: int
    mlp_ratio: float
    reduction: int
    rates: tuple[float, ...]


def stage_sizes(
    embed_dim: int,
    widths: tuple[int, ...] | None,
    depths: tuple[int, ...],
    num_heads: int,
    mlp_ratio: float,
    drop_path_rate: float,
) -> list[StageSizes]:
    """Four stages that grow as published from the first width and heads and the last MLP ratio.

    widths: of all four stages, instead of those that grow from embed_dim. ValueError on sizes that clash.
    """
    widths = tuple(embed_dim * factor for factor in GROWTH) if widths is None else tuple(widths)
    for name, values in (("widths", widths), ("depths", depths)):
        if len(values) != len(GROWTH):
            raise ValueError(
                f"{name} {tuple(values)}: a pyramid transformer has {len(GROWTH)} stages"
            )
    heads = [num_heads * factor for factor in GROWTH]
    for width, count, depth in zip(widths, heads, depths, strict=True):
        check_heads(width, count)
        check_layers(depth)
    ratios = [mlp_ratio * factor for factor in MLP_GROWTH]
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(tuple(depths))
    rates = [tuple(part.tolist()) for part in rates]
    return [
        StageSizes(*sizes) for sizes in zip(widths, heads, ratios, REDUCTIONS, rates, strict=True)
    ]


def block_maps(sizes: list[StageSizes], patch_size: int) -> tuple[dict[str, Map], tuple[str, ...]]:
    """The map of every block, "blocks.0" first, and the names of those that end a stage."""
    maps, ends = {}, []
    for stage, size in enumerate(sizes):
        stride = patch_size * LATER_STRIDE**stage
        maps |= {
            f"blocks.{len(maps) + index}": Map(size.width, stride)
            for index in range(len(size.rates))
        }
        ends.append(f"blocks.{len(maps) - 1}")
    return maps, tuple(ends)
