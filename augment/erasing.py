"""Random erasing (Zhong et al. 2017, arXiv 1708.04896): a box of the normalised image is filled with a constant.

As in the published two-stage recipe the box's aspect ratio is uniform (not log-uniform) between min_aspect and its
inverse, and the box is smaller than the image in both directions.
"""

from dataclasses import dataclass

import torch

from .device import channels, send

TRIES = 100


@dataclass(frozen=True)
class Erasing:
    """probability per image; area as a share of the image's, uniform; min_aspect: the least height / width."""

    probability: float = 0.25
    max_area: float = 0.4
    min_aspect: float = 0.3
    min_area: float = 0.02

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Per image (first row, first column, rows, columns), (B, 4) int64; 0 rows where nothing is erased.

        Of TRIES random boxes the first that is smaller than the image is taken; none where all are too large.
        """
        erased = torch.rand(batch, generator=generator) < self.probability
        area = self._uniform((batch, TRIES), self.min_area, self.max_area, generator) * height * width
        aspect = self._uniform((batch, TRIES), self.min_aspect, 1 / self.min_aspect, generator)
        rows, columns = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (rows < height) & (columns < width)
        first = torch.arange(batch), fits.int().argmax(1)
        rows = torch.where(erased & fits.any(1), rows[first], 0)
        columns = columns[first].clamp(max=width)
        corner = torch.rand(batch, 2, generator=generator)
        top, left = (corner[:, 0] * (height - rows + 1)).long(), (corner[:, 1] * (width - columns + 1)).long()
        return torch.stack([top, left, rows, columns], 1)

    @staticmethod
    def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)


def apply(images: torch.Tensor, boxes: torch.Tensor, fill: float | tuple[float, ...] = 0.0) -> torch.Tensor:
    """Fill each image's box: (B, C, H, W) float; `fill` is a number or one per channel."""
    boxes = send(boxes, images.device)
    top, left, rows, columns = (edge[:, None, None, None] for edge in boxes.unbind(1))
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    column = torch.arange(images.shape[3], device=images.device)
    inside = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
    value = channels(fill if isinstance(fill, tuple) else (fill,), images.device)
    return torch.where(inside, value.to(images.dtype), images)
