"""What several corruptions are made of: blurs along the axes, motion blur, zoom, and looking up pixels between pixels.

B images of C channels and H x W pixels. `levels` are float32.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

# Where a place outside 0..size-1 looks instead, (index, size) -> index.
Border = Callable[[Tensor, int], Tensor]
NEGLIGIBLE = 1e-6  # of a kernel's sum: together far below the 8 bits of a level


def nearest(index: Tensor, size: int) -> Tensor:
    """a a | a b c | c c"""
    return index.clamp(0, size - 1)


def reflect(index: Tensor, size: int) -> Tensor:
    """b a | a b c | c b"""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def mirror(index: Tensor, size: int) -> Tensor:
    """c b | a b c | b a"""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


# Along the axes


def along_axes(levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """levels (..., H, W), matrices (h, H) and (w, W) -> (..., h, w)."""
    return rows.to(levels.device) @ levels @ columns.T.to(levels.device)


def gaussian(levels: Tensor, sigma: float, border: Border = nearest, truncate: float = 4) -> Tensor:
    """A Gaussian blur of deviation sigma px, its kernel cut at truncate * sigma and brought to the sum 1."""
    height, width = levels.shape[-2:]
    rows = gaussian_matrix(height, sigma, border, truncate)
    return along_axes(levels, rows, gaussian_matrix(width, sigma, border, truncate))


@lru_cache(maxsize=32)
def gaussian_matrix(size: int, sigma: float, border: Border, truncate: float) -> Tensor:
    """(size, size), rows sum to 1."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return torch.eye(size)
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    kernel /= kernel.sum()
    source = border(torch.arange(size)[:, None] + offset, size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(size, -1)).float()


@lru_cache(maxsize=128)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """(size, size): the middle 1 / factor of an axis, brought to `size` linearly.

    The middle is ceil(size / factor) px wide. Zoomed, its first and last pixels stay first and last; what is too long
    is cut off on both sides.
    """
    width = math.ceil(size / factor)
    start = (size - width) // 2
    zoomed = round(width * factor)
    cut = (zoomed - size) // 2
    place = torch.arange(cut, cut + size, dtype=torch.float64)
    place = place * (width - 1) / max(zoomed - 1, 1)
    left = place.floor().clamp(max=max(width - 2, 0))
    share = place - left
    left = left.long()
    right = (left + 1).clamp(max=width - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, (start + left)[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, (start + right)[:, None], share[:, None])
    return matrix.float()


def zoom(levels: Tensor, factor: float) -> Tensor:
    """The middle of images, enlarged linearly to their own size."""
    height, width = levels.shape[-2:]
    return along_axes(levels, zoom_matrix(height, factor), zoom_matrix(width, factor))


# Motion


def motion_blur(levels: Tensor, angle: Tensor, radius: float, sigma: float) -> Tensor:
    """Each image is blurred to one side along its own angle (B,), in degrees; levels (B, C, H, W) -> the same.

    The kernel is half a Gaussian of deviation sigma px, 2 ceil(radius) + 1 px long; each of its steps goes to the
    nearest whole pixel, halves down, and the border pixel repeats. This is ImageMagick's motion blur.
    """
    height, width = levels.shape[-2:]
    step = torch.arange(2 * math.ceil(radius) + 1)
    kernel = torch.exp(-0.5 * (step.double() / sigma) ** 2)
    kernel /= kernel.sum()
    radians = angle.cpu().double().deg2rad()[:, None]
    right = (step * radians.cos() - 0.5).ceil().long().to(levels.device)
    down = (step * radians.sin() - 0.5).ceil().long().to(levels.device)
    row = torch.arange(height, device=levels.device)
    column = torch.arange(width, device=levels.device)
    blurred = torch.zeros_like(levels)
    for place, weight in enumerate(kernel.tolist()):
        if weight < NEGLIGIBLE:
            break
        rows = nearest(row + down[:, place, None], height)
        columns = nearest(column + right[:, place, None], width)
        blurred += weight * pick(levels, rows[:, :, None], columns[:, None, :])
    return blurred


# Pixels


def pick(levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of levels (B, C, H, W) at rows and columns, which together are (B, h, w) int64 -> (B, C, h, w)."""
    batch, channels, _, width = levels.shape
    place = rows * width + columns
    flat = place.flatten(1)[:, None].expand(-1, channels, -1)
    return levels.flatten(2).gather(2, flat).view(batch, channels, *place.shape[1:])


def sample(levels: Tensor, y: Tensor, x: Tensor, border: Border) -> Tensor:
    """levels (B, C, H, W) between pixels, linearly, at y and x (B, h, w) in px from the first pixel's centre."""
    height, width = levels.shape[-2:]
    top, left = y.floor(), x.floor()
    down, right = (y - top)[:, None], (x - left)[:, None]
    rows = [border(top.long() + step, height) for step in (0, 1)]
    columns = [border(left.long() + step, width) for step in (0, 1)]
    above = torch.lerp(pick(levels, rows[0], columns[0]), pick(levels, rows[0], columns[1]), right)
    below = torch.lerp(pick(levels, rows[1], columns[0]), pick(levels, rows[1], columns[1]), right)
    return torch.lerp(above, below, down)
