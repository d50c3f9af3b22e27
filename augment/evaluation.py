"""What a trained network sees of an image: resized if need be, and normalised."""

import torch
import torch.nn.functional as F

from .device import channels


class EvalTransform:
    """images (B, C, S, S) uint8 -> (B, C, size, size) float32, normalised by mean and std per channel."""

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.normalise(resize(images, self.size))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (channels(values, images.device) for values in (self.mean, self.std))
        return (images / 255 - mean) / std


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images (B, C, S, S) to (B, C, size, size): bilinear, antialiased, rounded."""
    if images.shape[2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
