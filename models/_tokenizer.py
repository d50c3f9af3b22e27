"""Images to tokens by a few convolutions: Hassani et al. 2021, arXiv 2104.05704, section 3.3."""

from itertools import pairwise

import torch.nn as nn
from torch import Tensor

from ._maps import Grid, channels_last_on_cpu
from ._sizes import Size, check_images, height_width


class Tokenizer(nn.Module):
    """Stages of convolution, and with `pool` of max-pooling and ReLU: images (B, C, H, W) -> a map (B, D, h, w).

    With pool=False and one stage of kernel = stride it is a patch embedding. The stages between have `in_planes`
    channels, all have the same kernel, stride and padding.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int,
        conv_layers: int = 1,
        in_planes: int = 64,
        pool: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.kernel_size, self.padding = in_channels, kernel_size, padding
        self.strides = (stride, 2) if pool else (stride,)
        between = [in_planes] * (conv_layers - 1)
        widths = [in_channels, *between, embed_dim]
        stages = [self._stage(inputs, outputs, pool) for inputs, outputs in pairwise(widths)]
        self.conv_layers = nn.Sequential(*stages)

    def _stage(self, inputs: int, outputs: int, pool: bool) -> nn.Sequential:
        convolution = nn.Conv2d(
            inputs, outputs, self.kernel_size, self.strides[0], self.padding, bias=not pool
        )
        nn.init.kaiming_normal_(convolution.weight)
        if not pool:
            return nn.Sequential(convolution)
        # Published is ReLU first, which has four times the values and the same result and gradients
        return nn.Sequential(convolution, nn.MaxPool2d(3, 2, 1), nn.ReLU())

    @property
    def stride(self) -> int:
        """How many pixels of the image one token spans."""
        step = 1
        for stride in self.strides * len(self.conv_layers):
            step *= stride
        return step

    def side(self, size: int) -> int:
        """How many tokens lie along `size` px; 0 where a kernel is larger than what is left for it."""
        for _ in self.conv_layers:
            room = size + 2 * self.padding - self.kernel_size
            size = max(0, room // self.strides[0] + 1)
            if len(self.strides) > 1:
                size = (size + 1) // 2  # (size - 1) // 2 + 1 of the pooling, and 0 for 0
        return size

    def grid(self, image_size: Size) -> Grid:
        """Rows and columns of tokens of an image of so many px; 0 as for `side`."""
        height, width = height_width(image_size)
        return self.side(height), self.side(width)

    def check(self, x: Tensor) -> None:
        """ValueError unless x is (B, C, H, W), tiled by the patches or large enough for the convolutions."""
        patches = len(self.strides) == 1
        check_images(x, self.in_channels, self.kernel_size if patches else 1)
        height, width = x.shape[-2:]
        if not self.side(height) or not self.side(width):
            raise ValueError(
                f"an image of {height} x {width} px is too small for these convolutions"
            )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if len(self.strides) > 1:
            x = channels_last_on_cpu(x)
        return self.conv_layers(x)
