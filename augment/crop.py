"""Random resized crops: each image's own box, flipped or not, brought to one size by bicubic resampling."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from . import boxes, resample
from .changes import Change, in_turn
from .draws import Draws


@dataclass(frozen=True)
class CropBoxes(Draws):
    """Per image: top, left, height, width in px of the source image, (B, 4) int64; whether flipped, (B,) bool."""

    box: Tensor
    flipped: Tensor


@dataclass(frozen=True)
class RandomResizedCrop:
    """Where each image is cut.

    scale: least and greatest share of the image's area.
    ratio: least and greatest width / height.
    flip: the probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> CropBoxes:
        """The boxes of the global batch, in images of height x width px."""
        scale = torch.tensor([self.scale], dtype=torch.float64).expand(batch, 2)
        box = boxes.random_boxes(scale, height, width, self.ratio, generator)
        flipped = torch.rand(batch, generator=generator) < self.flip
        return CropBoxes(box, flipped)


def apply(images: Tensor, draws: CropBoxes, size: int | tuple[int, int]) -> Tensor:
    """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8 of `size`, a side or height and width in px.

    ValueError where a box, drawn for images of another size, is not inside.
    """
    height, width = images.shape[2:]
    return in_turn(images, [change(draws, (height, width), size)])


def change(draws: CropBoxes, source: tuple[int, int], size: int | tuple[int, int]) -> Change:
    """The same, to be run later on images of `source`, height and width in px."""
    height, width = source
    edge = draws.box[:, :2] + draws.box[:, 2:]
    if (edge > torch.tensor([height, width])).any():
        raise ValueError(f"crops drawn for larger images than {height} x {width} px")
    return Change((draws.box, draws.flipped), partial(_crop, size=_pair(size)))


def _crop(images: Tensor, box: Tensor, flipped: Tensor, size: tuple[int, int]) -> Tensor:
    levels = resample.resize_crops(images, box[None], flipped[None], size)  # (C, 1, B, h, w)
    cropped = levels[:, 0].round_().to(torch.uint8)
    return cropped.transpose(0, 1).contiguous()
