"""What a trained network sees of an image: resized if need be, and normalised."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from .device import channels, exact_products
from .resample import Fit, fit_images

Resample = Literal["bicubic", "bilinear"]


class EvalTransform:
    """images (B, C, H, W) uint8 -> (B, C, height, width) float32, normalised by mean and std per channel.

    size: the side in px, or height and width.
    mean, std: per channel, of levels in 0..1.
    crop_pct: the share of the image's side that is seen, in its middle; None: all of it.
    fit: how images of another shape are brought to this one, see resample.fit_images.
    resample: "bilinear" where images are squeezed and that was published.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        crop_pct: float | None = None,
        fit: Fit = "squeeze",
        resample: Resample = "bicubic",
    ):
        self.size, self.crop_pct, self.fit, self.resample = size, crop_pct, fit, resample
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalise(self.resize(images))

    @exact_products()
    def resize(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> the pixels that are seen of them, uint8 (B, C, height, width)."""
        return middle(resize(images, self.whole, self.fit, self.resample), self.size)

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width in px of the image of which the middle is seen."""
        share = self.crop_pct or 1.0
        rows, columns = _pair(self.size)
        return int(rows / share), int(columns / share)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> float32, normalised by mean and std per channel."""
        mean = channels(self.mean, images.device)
        std = channels(self.std, images.device)
        return (images / 255 - mean) / std


def resize(
    images: Tensor,
    size: int | tuple[int, int],
    fit: Fit = "squeeze",
    resample: Resample = "bicubic",
) -> Tensor:
    """uint8 images (B, C, H, W) to `size`, a side or height and width in px, antialiased; as files are, if bicubic."""
    sides = _pair(size)
    if images.shape[2:] == sides:
        return images
    if resample == "bilinear":
        resized = F.interpolate(images.float(), sides, mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8)
    if fit == "squeeze" and images.device.type == "cpu":
        # PyTorch's own, Pillow's integers, is quicker there
        return F.interpolate(images, sides, mode="bicubic", antialias=True)
    with torch.autocast(images.device.type, enabled=False):  # its products would have 8 bits
        return fit_images(images, sides, fit).round_().to(torch.uint8)


def middle(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle (B, C, height, width) of images, as torchvision's centre crop takes it."""
    rows, columns = _pair(size)
    top = round((images.shape[2] - rows) / 2)
    left = round((images.shape[3] - columns) / 2)
    return images[:, :, top : top + rows, left : left + columns]
