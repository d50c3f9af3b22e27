"""Shear, translation and rotation of uint8 images, pixel for pixel as Pillow's Image.transform.

All take images (B, C, H, W) uint8 on any device and one amount per sample (B,) on the CPU: the coordinates are worked
out there in float64 (a batch has few numbers that describe them) and only the sampling runs on the device. An output
pixel looks up x' = a x + b y + c, y' = d x + e y + f at pixel centres; where that is outside, it is FILL.
"""

import math

import torch

from .device import send

FILL = 128


def shear_x(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """x' = x + amount * y, bicubic."""
    height, width = images.shape[2:]
    shift = amounts.double()[:, None] * (torch.arange(height) + 0.5)  # (B, H): a row moves as one
    whole = shift.floor()
    part = _on(images, shift - whole)[:, None, :, None]
    column = torch.arange(width, device=images.device)
    left = _on(images, whole.long())[:, None, :, None] + column  # (B, 1, H, W): x' lies between left and left + 1
    taps = [(left + step).clamp(0, width - 1).expand_as(images) for step in (-1, 0, 1, 2)]
    values = _cubic(*(images.gather(3, tap).to(part.dtype) for tap in taps), part)
    centre = left + part + 0.5
    inside = (centre >= 0) & (centre < width)
    return torch.where(inside, values.clamp_(0, 255).to(torch.uint8), FILL)


def shear_y(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """y' = y + amount * x, bicubic."""
    return shear_x(images.transpose(2, 3), amounts).transpose(2, 3)


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
    x, y = images.shape[3] / 2, images.shape[2] / 2
    cos, sin = (-degrees.double() * math.pi / 180).cos(), (-degrees.double() * math.pi / 180).sin()
    return _nearest(images, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


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
    source = torch.where(inside, y * width + x, 0).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    return torch.where(inside[:, None], moved, FILL)


def _cubic(before: torch.Tensor, left: torch.Tensor, right: torch.Tensor, after: torch.Tensor, at: torch.Tensor):
    """Cubic interpolation between left and right, with Pillow's coefficient -1 for transforms (its resize has -0.5)."""
    third = left - before + after - right
    second = 2 * (before - left) + right - after
    return left + at * (right - before + at * (second + at * third))


def _on(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Numbers on the images' device; MPS has no float64."""
    if images.device.type == "mps" and numbers.is_floating_point():
        numbers = numbers.float()
    return send(numbers, images.device)
