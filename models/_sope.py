"""SOPE, sequential overlapping patch embedding: Lu et al. 2022 (DHVT), arXiv 2210.05958, section 3.2.

3 x 3 convolutions of stride 2, so neighbouring patches overlap and the zero padding tells positions apart. Where the
paper's equation has a GELU after every stage, the published code, followed here, has none after the last of several.
"""

import torch
import torch.nn as nn
from torch import Tensor

PATCHES = (2, 4, 8, 16)  # published: 2, 4 and 16; 8 by the same rule


class SOPE(nn.Module):
    """Images (B, C, h, w) -> a map (B, width, h / patch, w / patch), sides rounded up at every halving.

    One stage per halving; widths double up to `width`. ValueError for a patch size that is not in PATCHES.
    """

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        if patch_size not in PATCHES:
            raise ValueError(
                f"patch size {patch_size} does not fit a stem of halvings; those that do: {PATCHES}"
            )
        stages = patch_size.bit_length() - 1
        layers: list[nn.Module] = []
        channels = in_channels
        for remaining in reversed(range(stages)):
            stage_width = width >> remaining
            layers += [_stage(channels, stage_width), nn.GELU()]
            channels = stage_width
        if stages > 1:
            layers.pop()  # no GELU after the last of several
        self.pre_affine = Affine(in_channels)
        self.proj = nn.Sequential(*layers)
        self.post_affine = Affine(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.post_affine(self.proj(self.pre_affine(x)))


class Affine(nn.Module):
    """x * alpha + beta per channel of a map (B, C, h, w); the identity at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha + self.beta


def _stage(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))
