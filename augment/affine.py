"""Shear, translation and rotation of uint8 images, pixel for pixel as Pillow's Image.transform.

All take images (B, C, H, W) uint8 on any device and one amount per sample (B,) on the CPU. What is the same for a
whole row or image is worked out there in float64; the rest runs on the device. An output pixel looks up
x' = a x + b y + c, y' = d x + e y + f at pixel centres; where that is outside, it is of the colour `fill`: one level or
one for each channel.
"""

import math

import torch

from .device import channels, send

FILL = 128  # grey
Fill = int | tuple[int, ...]


def shear_x(images: torch.Tensor, amounts: torch.Tensor, fill: Fill = FILL) -> torch.Tensor:
    """x' = x + amount * y, bicubic."""
    return _slide(images, amounts.double()[:, None] * (torch.arange(images.shape[2]) + 0.5), fill)


def shear_y(images: torch.Tensor, amounts: torch.Tensor, fill: Fill = FILL) -> torch.Tensor:
    """y' = y + amount * x, bicubic."""
    return shear_x(images.transpose(2, 3), amounts, fill).transpose(2, 3)


def slide_x(images: torch.Tensor, amounts: torch.Tensor, fill: Fill = FILL) -> torch.Tensor:
    """x' = x + amount * width, bicubic."""
    shift = amounts.double()[:, None] * images.shape[3]
    return _slide(images, shift.expand(-1, images.shape[2]), fill)


def slide_y(images: torch.Tensor, amounts: torch.Tensor, fill: Fill = FILL) -> torch.Tensor:
    """y' = y + amount * height, bicubic."""
    return slide_x(images.transpose(2, 3), amounts, fill).transpose(2, 3)


def turn(images: torch.Tensor, degrees: torch.Tensor, fill: Fill = FILL) -> torch.Tensor:
    """Counter-clockwise about the centre, bicubic."""
    x, y = _places(images, _rotation(images, degrees))
    inside = (x >= 0) & (x < images.shape[3]) & (y >= 0) & (y < images.shape[2])
    values = _cubic_at(images, x - 0.5, y - 0.5)
    return torch.where(
        inside[:, None], values.clamp_(0, 255).to(torch.uint8), _colour(fill, images)
    )


def translate_x(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """x' = x + amount * width, nearest."""
    one, zero = torch.ones(len(amounts)), torch.zeros(len(amounts))
    return _nearest(images, (one, zero, amounts * images.shape[3], zero, one, zero))


def translate_y(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """y' = y + amount * height, nearest."""
    one, zero = torch.ones(len(amounts)), torch.zeros(len(amounts))
    return _nearest(images, (one, zero, zero, zero, one, amounts * images.shape[2]))


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Counter-clockwise about the centre, nearest."""
    return _nearest(images, _rotation(images, degrees))


def _rotation(images: torch.Tensor, degrees: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The terms a, b, c, d, e, f of each sample."""
    x, y = images.shape[3] / 2, images.shape[2] / 2
    cos, sin = (-degrees.double() * math.pi / 180).cos(), (-degrees.double() * math.pi / 180).sin()
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _slide(images: torch.Tensor, shift: torch.Tensor, fill: Fill) -> torch.Tensor:
    """Each row's pixels look up x + shift (B, H), bicubic."""
    width = images.shape[3]
    whole = shift.floor()
    part = _on(images, shift - whole)[:, None, :, None]
    column = torch.arange(width, device=images.device)
    left = (
        _on(images, whole.long())[:, None, :, None] + column
    )  # (B, 1, H, W): x' lies between left and left + 1
    taps = [(left + step).clamp(0, width - 1).expand_as(images) for step in (-1, 0, 1, 2)]
    values = _cubic(*(images.gather(3, tap).to(part.dtype) for tap in taps), part)
    centre = left + part + 0.5
    inside = (centre >= 0) & (centre < width)
    return torch.where(inside, values.clamp_(0, 255).to(torch.uint8), _colour(fill, images))


def _nearest(images: torch.Tensor, matrix: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Nearest neighbour in 16.16 fixed point, as Pillow walks the image, so that ties fall on the same pixel."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = (term.double() for term in matrix)
    fixed = torch.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], 1)
    fixed = _on(images, (fixed * 65536 + 0.5).floor().long())[:, :, None, None]
    column = torch.arange(width, device=images.device)
    row = torch.arange(height, device=images.device)[:, None]
    x = (fixed[:, 0] * column + fixed[:, 1] * row + fixed[:, 2]) >> 16  # (B, H, W)
    y = (fixed[:, 3] * column + fixed[:, 4] * row + fixed[:, 5]) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = (
        torch.where(inside, y * width + x, 0).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    )
    moved = images.flatten(2).gather(2, source).view_as(images)
    return torch.where(inside[:, None], moved, FILL)


def _cubic(
    before: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    after: torch.Tensor,
    at: torch.Tensor,
):
    """Cubic interpolation between left and right, with Pillow's coefficient -1 for transforms (its resize has -0.5)."""
    third = left - before + after - right
    second = 2 * (before - left) + right - after
    return left + at * (right - before + at * (second + at * third))


def _cubic_at(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Bicubic values at places (B, H, W) in pixels, where 0 is the first pixel's centre; the border pixel repeats."""
    (height, width), flat = images.shape[2:], images.flatten(2)
    left, top = x.floor(), y.floor()
    columns = [(left.long() + step).clamp(0, width - 1) for step in (-1, 0, 1, 2)]

    def row(step: int) -> torch.Tensor:
        start = (top.long() + step).clamp(0, height - 1) * width
        taps = (
            (start + column).flatten(1)[:, None].expand(-1, images.shape[1], -1)
            for column in columns
        )
        return _cubic(
            *(flat.gather(2, tap).view_as(images).to(x.dtype) for tap in taps), (x - left)[:, None]
        )

    return _cubic(row(-1), row(0), row(1), row(2), (y - top)[:, None])


def _places(
    images: torch.Tensor, matrix: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """x' and y' (B, H, W) of every pixel's centre."""
    a, b, c, d, e, f = _on(images, torch.stack(matrix, 1))[:, :, None, None].unbind(1)
    column = torch.arange(images.shape[3], device=images.device) + 0.5
    row = torch.arange(images.shape[2], device=images.device)[:, None] + 0.5
    return a * column + b * row + c, d * column + e * row + f


def _colour(fill: Fill, images: torch.Tensor) -> torch.Tensor:
    """What broadcasts against images."""
    return channels(fill if isinstance(fill, tuple) else (fill,), images.device).to(torch.uint8)


def _on(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Numbers on the images' device; MPS has no float64."""
    if images.device.type == "mps" and numbers.is_floating_point():
        numbers = numbers.float()
    return send(numbers, images.device)
