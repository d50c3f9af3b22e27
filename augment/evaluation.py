"""What a trained network sees of an image: resized if need be, and normalised."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from . import resample
from .device import channels, exact_products, send


class EvalTransform:
    """images (B, C, H, W) uint8 -> (B, C, height, width) float32, normalised by mean and std per channel.

    size: the side in px, or height and width.
    mean, std: per channel, of levels in 0..1.
    crop_pct: the share of the image's side that is seen, in its middle; None: all of it, resized bilinearly.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        crop_pct: float | None = None,
    ):
        self.size, self.crop_pct = size, crop_pct
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalise(self.resize(images))

    @exact_products()
    def resize(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> the pixels that are seen of them, uint8 (B, C, height, width)."""
        if self.crop_pct is None:
            return resize_bilinear(images, self.size)
        return crop_centre(images, self.size, self.crop_pct)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> float32, normalised by mean and std per channel."""
        mean = channels(self.mean, images.device)
        std = channels(self.std, images.device)
        return (images / 255 - mean) / std


def resize_bilinear(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """uint8 images (B, C, H, W) to `size`, a side or height and width in px: bilinear, antialiased, rounded."""
    sides = _pair(size)
    if images.shape[2:] == sides:
        return images
    resized = F.interpolate(images.float(), sides, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def crop_centre(images: Tensor, size: int | tuple[int, int], share: float) -> Tensor:
    """uint8 images (B, C, H, W) to size / share px, bicubic, antialiased, rounded; of that the middle, of `size` px."""
    rows, columns = _pair(size)
    sides = (int(rows / share), int(columns / share))
    height, width = images.shape[2:]
    if (height, width) != sides:
        whole = send(torch.tensor([0, 0, height, width]), images.device)
        boxes = whole.expand(1, len(images), 4)
        unflipped = torch.zeros_like(boxes[..., 0], dtype=torch.bool)
        levels = resample.resize_crops(images, boxes, unflipped, sides)
        images = levels[:, 0].round_().to(torch.uint8).transpose(0, 1)
    top = round((sides[0] - rows) / 2)  # as torchvision's centre crop
    left = round((sides[1] - columns) / 2)
    return images[:, :, top : top + rows, left : left + columns]
