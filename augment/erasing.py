"""Random erasing (Zhong et al. 2017, arXiv 1708.04896): a box of the normalised image is filled.

By default as in the published two-stage recipe: with a constant, the box's aspect ratio uniform between min_aspect and
its inverse. timm, and so the other recipes, fills with normal noise and draws the ratio uniform in its logarithm. The
box is smaller than the image in both directions.
"""

import math
from dataclasses import dataclass

import torch

from . import noise
from .device import channels, send

TRIES = 100


@dataclass(frozen=True)
class Erasing:
    """probability per image; area as a share of the image's, uniform; min_aspect: the least height / width.

    log_aspect: whether the ratio is uniform in its logarithm.
    """

    probability: float = 0.25
    max_area: float = 0.4
    min_aspect: float = 0.3
    min_area: float = 0.02
    log_aspect: bool = False

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Per image (first row, first column, rows, columns), (B, 4) int64; 0 rows where nothing is erased.

        Of TRIES random boxes the first that is smaller than the image is taken; none where all are too large.
        """
        erased = torch.rand(batch, generator=generator) < self.probability
        area = (
            self._uniform((batch, TRIES), self.min_area, self.max_area, generator) * height * width
        )
        aspect = self._aspect((batch, TRIES), generator)
        rows, columns = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (rows < height) & (columns < width)
        first = torch.arange(batch), fits.int().argmax(1)
        rows = torch.where(erased & fits.any(1), rows[first], 0)
        columns = columns[first].clamp(max=width)
        corner = torch.rand(batch, 2, generator=generator)
        top, left = (
            (corner[:, 0] * (height - rows + 1)).long(),
            (corner[:, 1] * (width - columns + 1)).long(),
        )
        return torch.stack([top, left, rows, columns], 1)

    def _aspect(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        if not self.log_aspect:
            return self._uniform(shape, self.min_aspect, 1 / self.min_aspect, generator)
        edge = -math.log(self.min_aspect)
        return self._uniform(shape, -edge, edge, generator).exp()

    @staticmethod
    def _uniform(
        shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
    ) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)


def apply(
    images: torch.Tensor, boxes: torch.Tensor, fill: float | tuple[float, ...] = 0.0
) -> torch.Tensor:
    """Fill each image's box: (B, C, H, W) float; `fill` is a number or one per channel."""
    value = channels(fill if isinstance(fill, tuple) else (fill,), images.device)
    return torch.where(_inside(boxes, images), value.to(images.dtype), images)


def draw_seeds(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Where each image's noise starts, (B,) int64."""
    return torch.randint(2**32, (batch,), generator=generator)


def apply_noise(images: torch.Tensor, boxes: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Fill each image's box with standard normal noise, pixel by pixel: (B, C, H, W) float, boxes, seeds on the CPU."""
    chosen = (boxes[:, 2] > 0).nonzero()[:, 0]
    if not len(chosen):
        return images
    where = send(chosen, images.device)
    values = noise.normal(send(seeds[chosen], images.device), tuple(images.shape[1:])).to(
        images.dtype
    )
    inside = _inside(boxes[chosen], images)
    return images.index_copy(0, where, torch.where(inside, values, images[where]))


def _inside(boxes: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) bool, of boxes (B, 4)."""
    boxes = send(boxes, images.device)
    top, left, rows, columns = (edge[:, None, None, None] for edge in boxes.unbind(1))
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    column = torch.arange(images.shape[3], device=images.device)
    return (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
