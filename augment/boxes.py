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
    draws = torch.rand(4, len(scale), generator=generator)
    boxes, fits = _proposed(scale, height, width, ratio, draws)
    # Most fit at once; the others get all their other tries together
    pending = (~fits).nonzero().flatten()
    draws = torch.rand(4, TRIES - 1, len(pending), generator=generator)
    proposed, fits = _proposed(scale[pending], height, width, ratio, draws)
    first = fits.byte().argmax(0)  # of equals the first
    chosen = proposed[first, torch.arange(len(pending))]
    chosen[~fits.any(0)] = torch.tensor(centred_box(height, width, ratio))
    boxes[pending] = chosen
    return boxes


def _proposed(
    scale: Tensor, height: int, width: int, ratio: tuple[float, float], draws: Tensor
) -> tuple[Tensor, Tensor]:
    """draws (4, ..., samples) uniform in 0..1 -> boxes (..., samples, 4), and whether they fit (..., samples)."""
    least, greatest = scale.T
    area = torch.lerp(least, greatest, draws[0].double()).mul_(height * width)
    log_least = math.log(ratio[0])
    log_range = math.log(ratio[1] / ratio[0])
    aspect = draws[1].double().mul_(log_range).add_(log_least).exp_()
    h = (area / aspect).sqrt_().round_()
    w = (area * aspect).sqrt_().round_()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    top = (height - h).add_(1).mul_(draws[2]).floor_()
    left = (width - w).add_(1).mul_(draws[3]).floor_()
    return torch.stack((top, left, h, w), -1).long(), fits


def centred_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The greatest centred box (top, left, height, width) with a width / height within ratio."""
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    top = (height - h) // 2
    left = (width - w) // 2
    return top, left, h, w
