"""Random crop boxes: where each sample of a batch is cut.

The rule is that of Szegedy et al. 2015 (arXiv 1409.4842, "Training methodology") as RandomResizedCrop made it common:
an area uniform within a share of the image, an aspect ratio uniform in its logarithm, ten tries to fit inside the
image, and then a centred box of the nearest allowed ratio.
"""

import math

import torch
from torch import Tensor

TRIES = 10
RATIO = (3 / 4, 4 / 3)


def random_boxes(
    scale: Tensor,
    height: int,
    width: int,
    ratio: tuple[float, float] = RATIO,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Boxes (samples, 4) int64 on the CPU: top, left, height, width in px of a height x width image.

    scale: (samples, 2), least and greatest share of the image's area.
    ratio: least and greatest width / height.
    """
    boxes = torch.tensor(centred_box(height, width, ratio)).repeat(len(scale), 1)
    pending = torch.arange(len(scale))
    for tries in (1, TRIES - 1):  # most fit at once; the others get all their other tries together
        draws = torch.rand(4, tries, len(pending), generator=generator)
        proposed, fits = _first_fitting(scale[pending], height, width, ratio, draws)
        boxes[pending[fits]] = proposed[fits]
        pending = pending[~fits]
    return boxes


def _first_fitting(
    scale: Tensor, height: int, width: int, ratio: tuple[float, float], draws: Tensor
) -> tuple[Tensor, Tensor]:
    """draws (4, tries, samples) uniform in 0..1 -> the first boxes that fit (samples, 4), whether any did (samples)."""
    least, greatest = scale.T
    area = height * width * torch.lerp(least, greatest, draws[0].double())
    log_least = math.log(ratio[0])
    log_range = math.log(ratio[1] / ratio[0])
    aspect = torch.exp(log_least + log_range * draws[1].double())
    h = (area / aspect).sqrt_().round_()
    w = (area * aspect).sqrt_().round_()
    fits_height = (h > 0) & (h <= height)
    fits_width = (w > 0) & (w <= width)
    fits = fits_height & fits_width
    top = (draws[2] * (height - h + 1)).floor_()
    left = (draws[3] * (width - w + 1)).floor_()
    boxes = torch.stack((top, left, h, w), -1)
    first = fits.byte().argmax(0)  # of equals the first
    chosen = boxes[first, torch.arange(len(first))]
    return chosen.long(), fits.any(0)


def centred_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The greatest centred box (top, left, height, width) with a width / height within ratio."""
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    top = (height - h) // 2
    left = (width - w) // 2
    return top, left, h, w
