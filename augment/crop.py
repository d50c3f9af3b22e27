"""Random resized crops: each image's own box, flipped or not, brought to one size by bicubic resampling."""

from dataclasses import dataclass

import torch

from . import boxes, resample
from .device import send
from .draws import Draws


@dataclass(frozen=True)
class Crops(Draws):
    """Per image: top, left, height, width in px of the source image, (B, 4) int64; whether flipped, (B,) bool."""

    box: torch.Tensor
    flipped: torch.Tensor


@dataclass(frozen=True)
class RandomResizedCrop:
    """scale: least and greatest share of the image's area; ratio: of width to height; flip: a probability."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Crops:
        """The boxes of the global batch, in images of height x width px."""
        scale = torch.tensor([self.scale], dtype=torch.float64).expand(batch, 2)
        box = boxes.random_boxes(scale, height, width, self.ratio, generator)
        return Crops(box, torch.rand(batch, generator=generator) < self.flip)


def apply(images: torch.Tensor, draws: Crops, size: int) -> torch.Tensor:
    """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8 (B, C, size, size).

    ValueError where a box, drawn for images of another size, is not inside.
    """
    edge = draws.box[:, :2] + draws.box[:, 2:]
    if (edge > torch.tensor(images.shape[2:])).any():
        raise ValueError(
            f"crops drawn for larger images than {images.shape[2]} x {images.shape[3]} px"
        )
    box, flipped = (send(field[None], images.device) for field in (draws.box, draws.flipped))
    levels = resample.resize(images, box, flipped, (size, size))  # (C, 1, B, size, size)
    return levels[:, 0].round_().to(torch.uint8).transpose(0, 1).contiguous()
