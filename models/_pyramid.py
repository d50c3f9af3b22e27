"""The four stages of a pyramid vision transformer: Wang et al. 2021, arXiv 2102.12122, table 1."""

from typing import NamedTuple

import torch

from ._maps import Map, stage_maps
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
    if widths is None:
        widths = tuple(embed_dim * factor for factor in GROWTH)
    for name, values in (("widths", widths), ("depths", depths)):
        if len(values) != len(GROWTH):
            raise ValueError(
                f"{name} {tuple(values)}: a pyramid transformer has {len(GROWTH)} stages"
            )
    heads = [num_heads * factor for factor in GROWTH]
    for width, count, depth in zip(widths, heads, depths, strict=True):
        check_heads(width, count)
        check_layers(depth)
    all_rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu")
    sizes = []
    for stage, rates in enumerate(all_rates.split(tuple(depths))):
        sizes.append(
            StageSizes(
                width=widths[stage],
                heads=heads[stage],
                mlp_ratio=mlp_ratio * MLP_GROWTH[stage],
                reduction=REDUCTIONS[stage],
                rates=tuple(rates.tolist()),
            )
        )
    return sizes


def pyramid_maps(
    sizes: list[StageSizes], patch_size: int
) -> tuple[dict[str, Map], tuple[str, ...]]:
    """The map of every block, "blocks.0" first, and the names of those that end a stage."""
    maps, depths = [], []
    stride = patch_size
    for size in sizes:
        maps.append(Map(size.width, stride))
        depths.append(len(size.rates))
        stride *= LATER_STRIDE
    return stage_maps(maps, depths)
