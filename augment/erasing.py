"""Random erasing (Zhong et al. 2017, arXiv 1708.04896): a box of the normalised image is filled.

By default as in the published two-stage recipe: with a constant, the box's aspect ratio uniform between min_aspect and
its inverse. timm, and so the other recipes, fills with normal noise and draws the ratio uniform in its logarithm. The
box is smaller than the image in both directions.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import noise
from .changes import Change, in_turn
from .device import channels

TRIES = 100


@dataclass(frozen=True)
class Erasing:
    """How often, how large and of which shape.

    probability: per image.
    min_area, max_area: the box's share of the image's area, uniform between them.
    min_aspect: the least height / width; the greatest is its inverse.
    log_aspect: whether the ratio is uniform in its logarithm.
    """

    probability: float = 0.25
    max_area: float = 0.4
    min_aspect: float = 0.3
    min_area: float = 0.02
    log_aspect: bool = False

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Per image (first row, first column, rows, columns), (B, 4) int64; 0 rows where nothing is erased.

        Of TRIES random boxes the first that is smaller than the image is taken; none where all are too large.
        """
        shape = (batch, TRIES)
        erased = torch.rand(batch, generator=generator) < self.probability
        share = _uniform(shape, self.min_area, self.max_area, generator)
        area = share * height * width
        aspect = self._draw_aspect(shape, generator)
        rows = (area * aspect).sqrt().round().long()
        columns = (area / aspect).sqrt().round().long()
        # Of each image's tries the first that fits.
        fits = (rows < height) & (columns < width)
        first = fits.int().argmax(1)
        image = torch.arange(batch)
        rows = torch.where(erased & fits.any(1), rows[image, first], 0)
        columns = columns[image, first].clamp(max=width)
        corner = torch.rand(batch, 2, generator=generator)
        top = (corner[:, 0] * (height - rows + 1)).long()
        left = (corner[:, 1] * (width - columns + 1)).long()
        return torch.stack([top, left, rows, columns], 1)

    def _draw_aspect(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if not self.log_aspect:
            return _uniform(shape, self.min_aspect, 1 / self.min_aspect, generator)
        edge = -math.log(self.min_aspect)
        return _uniform(shape, -edge, edge, generator).exp()


def apply(images: Tensor, boxes: Tensor, fill: float | tuple[float, ...] = 0.0) -> Tensor:
    """Fill each image's box: (B, C, H, W) float; `fill` is a number or one per channel."""
    return in_turn(images, [change(boxes, fill)])


def change(boxes: Tensor, fill: float | tuple[float, ...] = 0.0) -> Change:
    """The same, to be run later."""
    return Change((boxes,), partial(_fill, fill=fill))


def _fill(images: Tensor, boxes: Tensor, fill: float | tuple[float, ...]) -> Tensor:
    if not isinstance(fill, tuple):
        fill = (fill,)
    value = channels(fill, images.device).to(images.dtype)
    return torch.where(_inside(boxes, images), value, images)


def draw_seeds(batch: int, generator: torch.Generator) -> Tensor:
    """Where each image's noise starts, (B,) int64."""
    return torch.randint(2**32, (batch,), generator=generator)


def apply_noise(images: Tensor, boxes: Tensor, seeds: Tensor) -> Tensor:
    """Fill each image's box with standard normal noise, pixel by pixel: (B, C, H, W) float, boxes, seeds on the CPU."""
    return in_turn(images, [noise_change(boxes, seeds)])


def noise_change(boxes: Tensor, seeds: Tensor) -> Change:
    """The same, to be run later."""
    chosen = (boxes[:, 2] > 0).nonzero()[:, 0]
    if not len(chosen):
        return Change((), lambda images: images)
    return Change((chosen, boxes[chosen], seeds[chosen]), _fill_with_noise)


def _fill_with_noise(images: Tensor, rows: Tensor, boxes: Tensor, seeds: Tensor) -> Tensor:
    """rows: the images that have these boxes."""
    values = noise.normal(seeds, tuple(images.shape[1:]))
    inside = _inside(boxes, images)
    erased = torch.where(inside, values.to(images.dtype), images[rows])
    return images.index_copy(0, rows, erased)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """(B, 1, H, W) bool, of boxes (B, 4)."""
    top, left, rows, columns = boxes[:, :, None, None, None].unbind(1)
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    in_rows = (row >= top) & (row < top + rows)
    in_columns = (column >= left) & (column < left + columns)
    return in_rows & in_columns
