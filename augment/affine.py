"""Shear, translation and rotation of uint8 images, pixel for pixel as Pillow's Image.transform.

Each takes an amount for each image (B,) on the CPU, the images' height and width, and gives the change of uint8 images
(B, C, H, W) on any device. What is the same for a whole row or image is worked out on the CPU in float64. An output
pixel looks up x' = a x + b y + c, y' = d x + e y + f at pixel centres; where that is outside, it is of the colour
`fill`: one level or one for each channel.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .changes import Change
from .device import channels

FILL = 128  # grey
TAPS = (-1, 0, 1, 2)  # the pixels of a cubic interpolation, counted from the one on the left
FIXED_POINT_BITS = 16
Fill = int | tuple[int, ...]


def shear_x(amounts: Tensor, height: int, width: int, fill: Fill = FILL) -> Change:
    """x' = x + amount * y, bicubic."""
    y = torch.arange(height) + 0.5
    return _shift_rows(amounts.double()[:, None] * y, fill)


def shear_y(amounts: Tensor, height: int, width: int, fill: Fill = FILL) -> Change:
    """y' = y + amount * x, bicubic."""
    return _transposed(shear_x(amounts, width, height, fill))


def translate_x_bicubic(amounts: Tensor, height: int, width: int, fill: Fill = FILL) -> Change:
    """x' = x + amount * width, bicubic."""
    shift = amounts.double()[:, None] * width
    return _shift_rows(shift.expand(-1, height), fill)


def translate_y_bicubic(amounts: Tensor, height: int, width: int, fill: Fill = FILL) -> Change:
    """y' = y + amount * height, bicubic."""
    return _transposed(translate_x_bicubic(amounts, width, height, fill))


def rotate_bicubic(degrees: Tensor, height: int, width: int, fill: Fill = FILL) -> Change:
    """Counter-clockwise about the centre, bicubic."""
    terms = torch.stack(_rotation(degrees, height, width), 1)
    return Change((terms,), partial(_look_up_cubic, fill=fill))


def translate_x(amounts: Tensor, height: int, width: int) -> Change:
    """x' = x + amount * width, nearest."""
    shift = amounts * width
    one = torch.ones_like(shift)
    zero = torch.zeros_like(shift)
    return _nearest((one, zero, shift, zero, one, zero))


def translate_y(amounts: Tensor, height: int, width: int) -> Change:
    """y' = y + amount * height, nearest."""
    return _transposed(translate_x(amounts, width, height))


def rotate(degrees: Tensor, height: int, width: int) -> Change:
    """Counter-clockwise about the centre, nearest."""
    return _nearest(_rotation(degrees, height, width))


def _transposed(change: Change) -> Change:
    """The same with rows and columns exchanged."""

    def run(images: Tensor, *numbers: Tensor) -> Tensor:
        return change.run(images.transpose(2, 3), *numbers).transpose(2, 3)

    return Change(change.numbers, run)


def _rotation(degrees: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """The terms a, b, c, d, e, f of each sample."""
    x = width / 2
    y = height / 2
    angle = -degrees.double() * math.pi / 180
    cos = angle.cos()
    sin = angle.sin()
    c = x - cos * x - sin * y
    f = y + sin * x - cos * y
    return cos, sin, c, -sin, cos, f


def _shift_rows(shift: Tensor, fill: Fill) -> Change:
    """Each row's pixels look up x + shift (B, H), bicubic."""
    whole = shift.floor()
    return Change((shift - whole, whole.long()), partial(_look_up_in_rows, fill=fill))


def _look_up_in_rows(images: Tensor, fraction: Tensor, offset: Tensor, fill: Fill) -> Tensor:
    """Both (B, H): whole columns to the left of what a pixel shows, and the rest."""
    width = images.shape[3]
    fraction = fraction[:, None, :, None]  # (B, 1, H, 1)
    column = torch.arange(width, device=images.device)
    left = offset[:, None, :, None] + column  # (B, 1, H, W): x' lies between left and left + 1
    taps = []
    for step in TAPS:
        source = (left + step).clamp(0, width - 1).expand_as(images)
        taps.append(images.gather(3, source).to(fraction.dtype))
    values = _cubic(taps, fraction)
    levels = values.clamp_(0, 255).to(torch.uint8)
    centre = left + fraction + 0.5
    inside = (centre >= 0) & (centre < width)
    return torch.where(inside, levels, _fill_levels(fill, images))


def _look_up_cubic(images: Tensor, terms: Tensor, fill: Fill) -> Tensor:
    """terms (B, 6)."""
    x, y = _source_positions(images, terms)
    values = _interpolate_cubic(images, x - 0.5, y - 0.5)
    levels = values.clamp_(0, 255).to(torch.uint8)
    return torch.where(_inside(x, y, images), levels, _fill_levels(fill, images))


def _nearest(matrix: tuple[Tensor, ...]) -> Change:
    """Nearest neighbour in 16.16 fixed point, as Pillow walks the image, so that ties fall on the same pixel."""
    a, b, c, d, e, f = (term.double() for term in matrix)
    first_x = c + (a + b) / 2
    first_y = f + (d + e) / 2
    terms = torch.stack([a, b, first_x, d, e, first_y], 1)
    fixed = (terms * 2**FIXED_POINT_BITS + 0.5).floor().long()
    return Change((fixed,), _look_up_nearest)


def _look_up_nearest(images: Tensor, fixed: Tensor) -> Tensor:
    """fixed (B, 6): the terms in fixed point."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = fixed[:, :, None, None].unbind(1)
    column = torch.arange(width, device=images.device)
    row = torch.arange(height, device=images.device)[:, None]
    x = (a * column + b * row + c) >> FIXED_POINT_BITS  # (B, H, W)
    y = (d * column + e * row + f) >> FIXED_POINT_BITS
    inside = _inside(x, y, images)
    place = torch.where(inside[:, 0], y * width + x, 0)
    moved = _gather_pixels(images.flatten(2), place)
    return torch.where(inside, moved.view_as(images), FILL)


def _cubic(taps: Sequence[Tensor], at: Tensor) -> Tensor:
    """Cubic interpolation, `at` in 0..1 between the second and the third of four neighbours.

    With Pillow's coefficient -1 for transforms (its resize has -0.5).
    """
    before, left, right, after = taps
    third = left - before + after - right
    second = 2 * (before - left) + right - after
    first = right - before
    return left + at * (first + at * (second + at * third))


def _interpolate_cubic(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bicubic values at places (B, H, W) in pixels, where 0 is the first pixel's centre; the border pixel repeats."""
    height, width = images.shape[2:]
    flat = images.flatten(2)
    left = x.floor()
    top = y.floor()
    x_fraction = (x - left)[:, None]
    y_fraction = (y - top)[:, None]
    columns = [(left.long() + step).clamp(0, width - 1) for step in TAPS]
    rows = []
    for step in TAPS:
        start = (top.long() + step).clamp(0, height - 1) * width
        taps = []
        for column in columns:
            levels = _gather_pixels(flat, start + column)
            taps.append(levels.view_as(images).to(x.dtype))
        rows.append(_cubic(taps, x_fraction))
    return _cubic(rows, y_fraction)


def _gather_pixels(flat: Tensor, places: Tensor) -> Tensor:
    """The pixels of flat images (B, C, H * W) at places (B, H, W) counted row by row: (B, C, H * W)."""
    source = places.flatten(1)[:, None]
    return flat.gather(2, source.expand(-1, flat.shape[1], -1))


def _source_positions(images: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """x' and y' (B, H, W) of every pixel's centre."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = terms[:, :, None, None].unbind(1)
    column = torch.arange(width, device=images.device) + 0.5
    row = torch.arange(height, device=images.device)[:, None] + 0.5
    x = a * column + b * row + c
    y = d * column + e * row + f
    return x, y


def _inside(x: Tensor, y: Tensor, images: Tensor) -> Tensor:
    """Which places (B, H, W) are within the image: (B, 1, H, W) bool."""
    height, width = images.shape[2:]
    in_columns = (x >= 0) & (x < width)
    in_rows = (y >= 0) & (y < height)
    return (in_columns & in_rows)[:, None]


def _fill_levels(fill: Fill, images: Tensor) -> Tensor:
    """The colour as uint8 (C, 1, 1) or (1, 1, 1), which broadcasts against images."""
    if isinstance(fill, int):
        fill = (fill,)
    return channels(fill, images.device).to(torch.uint8)
