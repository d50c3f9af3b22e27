"""What a trained network sees of an image: resized if need be, and normalised."""

import torch
import torch.nn.functional as F

from . import resample
from .device import channels


class EvalTransform:
    """images (B, C, S, S) uint8 -> (B, C, size, size) float32, normalised by mean and std per channel.

    crop_pct: the share of the image's side that is seen, in its middle; None: all of it, resized bilinearly.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        crop_pct: float | None = None,
    ):
        self.size, self.mean, self.std, self.crop_pct = size, tuple(mean), tuple(std), crop_pct

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.crop_pct is None:
            return self.normalise(resize(images, self.size))
        return self.normalise(centre(images, self.size, self.crop_pct))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (channels(values, images.device) for values in (self.mean, self.std))
        return (images / 255 - mean) / std


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images (B, C, S, S) to (B, C, size, size): bilinear, antialiased, rounded."""
    if images.shape[2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def centre(images: torch.Tensor, size: int, share: float) -> torch.Tensor:
    """uint8 images (B, C, S, S) to size / share px, bicubic, antialiased, rounded; of that the middle size px."""
    side = int(size / share)
    if images.shape[2:] != (side, side):
        whole = torch.tensor([0, 0, *images.shape[2:]], device=images.device).expand(
            1, len(images), 4
        )
        levels = resample.resize(
            images, whole, torch.zeros_like(whole[..., 0], dtype=torch.bool), (side, side)
        )
        images = levels[:, 0].round_().to(torch.uint8).transpose(0, 1)
    start = round((side - size) / 2)  # as torchvision's centre crop
    return images[:, :, start : start + size, start : start + size]
