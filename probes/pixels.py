"""Raw pixels as features: what a network's features must beat before they say anything about its training.

B images of C channels and H x W pixels.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

SIDE = 32  # px; at most 4 KiB a channel and image


class RawPixels(nn.Module):
    """Images (B, C, H, W) float32, as a network sees them -> their pixels (B, dim) float32, flattened.

    Images of more than 32 px are first made smaller by area averaging: over blocks of k x k px, k the smallest whole
    number that leaves at most 32 px a side (blocks that the border cuts have fewer). So an image's features need at
    most 12 KiB in three channels, whatever its size.

    channels: C. image_size: the side in px, or height and width.
    """

    def __init__(self, channels: int, image_size: int | tuple[int, int]):
        super().__init__()
        height, width = _pair(image_size)
        self.block = -(-max(height, width) // SIDE)
        self.sides = (-(-height // self.block), -(-width // self.block))
        self.dim = channels * self.sides[0] * self.sides[1]

    def forward(self, images: Tensor) -> Tensor:
        if self.block > 1:
            images = F.avg_pool2d(images, self.block, ceil_mode=True)
        return images.flatten(1)
