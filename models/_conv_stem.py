"""A convolutional stem: pixels to tokens by small convolutions in place of one linear layer a patch."""

from itertools import pairwise

import torch.nn as nn

NARROWEST = 8  # channels of the first convolution, at least


def conv_stem(in_channels: int, width: int, patch_size: int) -> nn.Sequential:
    """Images (B, in_channels, h, w) -> (B, width, h / patch_size, w / patch_size).

    Xiao et al. 2021 (arXiv 2106.14881), section 3: 3 x 3 convolutions, each with batch norm and ReLU, then one of
    1 x 1. The first keeps the size, since small images have no pixels to lose; each further one halves it and doubles
    the channels. ValueError where patches are not a power of two.
    """
    halvings = patch_size.bit_length() - 1
    if patch_size != 2**halvings:
        raise ValueError(
            f"--stem conv halves images: --patch_size {patch_size} must be a power of two"
        )
    widths = [max(NARROWEST, width >> (halvings - step)) for step in range(halvings + 1)]
    layers = [_convolution(in_channels, widths[0], stride=1)]
    for before, after in pairwise(widths):
        layers.append(_convolution(before, after, stride=2))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
