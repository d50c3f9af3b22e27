"""Digital corruptions: levels (B, C, H, W) float32 of 0..1, multiples of 1/255 -> the same shape."""

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ._corrupt_filter import gaussian, mirror, reflect, sample
from ._corrupt_random import ImageRandom
from .device import channels

# Colours


def contrast(levels: Tensor, random: ImageRandom, factor: float) -> Tensor:
    """Towards the mean of each channel."""
    mean = levels.mean((2, 3), keepdim=True)
    return (levels - mean) * factor + mean


def saturate(levels: Tensor, random: ImageRandom, factor: float, added: float) -> Tensor:
    """The saturation of HSV becomes factor * saturation + added, within 0 and 1. Three channels.

    A level is value * (1 - saturation * t), and t, from 0 to 1, follows from the hue. Where there is none it is red.
    """
    value = levels.amax(1, keepdim=True)
    chroma = value - levels.amin(1, keepdim=True)
    coloured = chroma > 0
    saturation = chroma / torch.where(coloured, value, 1.0)
    red = channels((0.0, 1.0, 1.0), levels.device)
    t = torch.where(coloured, (value - levels) / torch.where(coloured, chroma, 1.0), red)
    return value * (1 - (saturation * factor + added).clamp(0, 1) * t)


# Places


def elastic_transform(
    levels: Tensor, random: ImageRandom, amount: float, sigma: float, corner: float
) -> Tensor:
    """An affine map that moves three points by up to `corner`, then each pixel's own displacement.

    All three are shares of the shorter side: of displacements that are uniform noise within `amount`, blurred by sigma.
    """
    height, width = levels.shape[-2:]
    side = min(height, width)
    y, x = affine_places(random.between(-1, 1, 3, 2) * corner * side, height, width)
    levels = sample(levels, y, x, mirror)
    noise = random.between(-1, 1, 2, height, width)
    shift = gaussian(noise, sigma * side, reflect, truncate=3) * amount * side
    row = torch.arange(height, device=levels.device)[:, None]
    column = torch.arange(width, device=levels.device)
    return sample(levels, row + shift[:, 1], column + shift[:, 0], reflect)


def affine_places(moves: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of the affine map look: y and x (B, H, W).

    moves (B, 3, 2) in px, x before y: how far three points around the centre are moved.
    """
    centre = torch.tensor([width // 2, height // 2], dtype=torch.float32)
    reach = min(height, width) // 3
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    before = (centre + reach * corners).to(moves.device)
    after = before + moves
    # The map back: (x, y) -> before[0] + matrix @ ((x, y) - after[0])
    ends = (after[:, 1:] - after[:, :1]).transpose(1, 2)
    starts = (before[1:] - before[:1]).T
    a, b, c, d = ends[:, 0, 0], ends[:, 0, 1], ends[:, 1, 0], ends[:, 1, 1]
    adjugate = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2)
    matrix = starts @ adjugate / (a * d - b * c)[:, None, None]
    row = torch.arange(height, device=moves.device).view(1, -1, 1)
    column = torch.arange(width, device=moves.device).view(1, 1, -1)
    right = column - after[:, 0, 0].view(-1, 1, 1)
    down = row - after[:, 0, 1].view(-1, 1, 1)
    terms = matrix[..., None, None]
    x = before[0, 0] + terms[:, 0, 0] * right + terms[:, 0, 1] * down
    y = before[0, 1] + terms[:, 1, 0] * right + terms[:, 1, 1] * down
    return y, x


def pixelate(levels: Tensor, random: ImageRandom, share: float) -> Tensor:
    """Made smaller and larger again by box filters, rounded to whole levels after each axis as Pillow does."""
    height, width = levels.shape[-2:]
    for rows, columns in ((int(height * share), int(width * share)), (height, width)):
        levels = to_size(levels, rows, columns)
    return levels


def to_size(levels: Tensor, rows: int, columns: int) -> Tensor:
    """(..., rows, columns)"""
    height, width = levels.shape[-2:]
    across = box_matrix(width, columns).T.to(levels.device)
    down = box_matrix(height, rows).to(levels.device)
    return round_half_up(down @ round_half_up(levels @ across))


def round_half_up(levels: Tensor) -> Tensor:
    return (levels * 255 + 0.5 + 1e-4).floor() / 255


@lru_cache(maxsize=32)
def box_matrix(size: int, out: int) -> Tensor:
    """(out, size), rows sum to 1: the pixels whose centres are in the place of an output pixel, at least one."""
    scale = size / out
    reach = max(scale, 1.0) / 2
    centre = (torch.arange(out, dtype=torch.float64)[:, None] + 0.5) * scale
    away = torch.arange(size, dtype=torch.float64) + 0.5 - centre
    inside = ((away > -reach) & (away <= reach)).double()
    return (inside / inside.sum(1, keepdim=True)).float()


# Compression


def jpeg_compression(levels: Tensor, random: ImageRandom, quality: int) -> Tensor:
    """Compressed by Pillow, image for image on the CPU, as the published sets were. One or three channels."""
    pixels = (levels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    compressed = np.stack([through_jpeg(image, quality) for image in pixels])
    return torch.from_numpy(compressed).to(levels.device).permute(0, 3, 1, 2) / 255


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, C) -> the same."""
    gray = image.shape[-1] == 1
    file = BytesIO()
    Image.fromarray(image[:, :, 0] if gray else image).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        return np.asarray(opened).reshape(image.shape)
