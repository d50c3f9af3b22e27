"""Crop, horizontal flip and antialiased bicubic resize of a batch, as one linear map per axis.

An output pixel is a weighted sum of the input pixels under a cubic kernel (Keys 1981, a = -1/2) that is as wide as the
reduction: Pillow's `resize(..., BICUBIC)` of the cropped image, which is what torchvision's RandomResizedCrop calls.
A sample's crop box and flip only change its weights, so a batch costs two batched matrix products. As in Pillow the
horizontal axis comes first and values are cut to 0..255 after each axis; unlike there they are not rounded to whole
levels, which makes a difference of at most one level once they are. (Pillow 13 takes the vertical axis first where
that one shrinks more, which shows only in overshoots that are cut, next to black and white.)

Float images are in levels, 0..255, everywhere in augment/.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .device import constant

Fit = Literal["crop", "squeeze", "pad"]


def resize_crops(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut V crops out of every image and resize them: (B,C,H,W) -> levels (C,V,B,h,w) float32.

    boxes: (V,B,4) integer top, left, height, width in px; nothing outside a box is read.
    flip: (V,B) bool.
    size: (h, w) in px.

    The channel is the first axis of the result, because the colour operations want each channel in one piece.
    """
    B, C, H, W = images.shape
    V = len(boxes)
    h, w = size
    top, left, height, width = boxes.unbind(-1)
    columns = weights(left.T, width.T, W, w, flip.T)  # (B, V, w, W)
    columns = columns.reshape(B, V * w, W).transpose(1, 2)
    rows = weights(top, height, H, h)  # (V, B, h, H)
    rows = rows.flatten(0, 1)
    crops = torch.empty(C, V * B, h, w, device=images.device)
    # All channels share the weights.
    for image, crop in zip(images.float().unbind(1), crops, strict=True):
        narrow = torch.bmm(image, columns).view(B, H, V, w)
        narrow = narrow.permute(2, 0, 1, 3).clamp(0, 255)
        torch.bmm(rows, narrow.reshape(V * B, H, w), out=crop)
    return crops.clamp_(0, 255).view(C, V, B, h, w)


def weights(
    start: Tensor, length: Tensor, size: int, out: int, flip: Tensor | None = None
) -> Tensor:
    """One axis of the map: start, length, flip (...) of each sample's box in px -> (..., out, size), rows sum to 1.

    size: px of the image along this axis.
    out: px of the crop.
    """
    first, weight = kernels(size, out, start.device)
    entry = length - 1
    if flip is not None:
        entry = entry + size * flip
    entry = entry.flatten()
    weight = weight.index_select(0, entry)
    taps = weight.shape[-1]
    first = first.index_select(0, entry) + start.reshape(-1, 1)
    pixel = first.unsqueeze(-1) + torch.arange(taps, device=start.device)
    # Under the kernel of a very small box there may be pixels, of no weight, right of the image.
    dense = weight.new_zeros(*start.shape, out, size + taps)
    dense.view(pixel.shape[0], out, -1).scatter_(-1, pixel, weight)
    return dense[..., :size]


@constant
def kernels(size: int, out: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The map of every possible box: first pixel under the kernel (2 size, out), weights (2 size, out, taps).

    Entry n - 1 is for a box of n px, counted from its first pixel, and size + n - 1 for the same flipped.
    """
    length = torch.arange(1, size + 1, dtype=torch.float64).view(-1, 1)
    scale = length / out
    stretch = scale.clamp(min=1)
    centre = (torch.arange(out) + 0.5) * scale
    taps = min(size, math.ceil(4 * max(1, size / out)))  # the kernel is 4 * stretch wide
    first = (centre - 2 * stretch + 0.5).floor()
    first = first.minimum(length - taps).clamp(min=0)
    pixel = first.unsqueeze(-1) + torch.arange(taps)
    inside = pixel < length.unsqueeze(-1)
    distance = pixel + 0.5 - centre.unsqueeze(-1)
    weight = cubic(distance / stretch.unsqueeze(-1)) * inside
    weight /= weight.sum(-1, keepdim=True)
    # The flipped boxes' entries follow.
    first = torch.cat((first, first.flip(1)))
    weight = torch.cat((weight, weight.flip(1)))
    return first.long().to(device), weight.float().to(device)


def cubic(t: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2: 1.5|t|^3 - 2.5|t|^2 + 1 up to 1, -0.5|t|^3 + 2.5|t|^2 - 4|t| + 2 up to 2, then 0.

    Written without branches in u = 2 - |t| and v = 1 - |t|, cut at 0: u^2 (u - 1) / 2 + v^2 (1 - 2v).
    """
    u = (2 - t.abs()).clamp(min=0)
    v = (u - 1).clamp(min=0)
    outer = u * u * (u - 1) / 2
    inner = v * v * (1 - 2 * v)
    return outer + inner


def fit_images(images: Tensor, size: tuple[int, int], fit: Fit = "squeeze") -> Tensor:
    """Images (B, C, H, W), uint8 or levels, of any H and W -> levels (B, C, *size) float32, as files are brought there.

    fit: crop takes the largest centred box of the shape; squeeze both sides; pad the whole image, and its mean colour
    around it. No number of it depends on H or W in Python, so that a traced graph takes any.
    """
    height, width = images.shape[2:]
    is_traced = not isinstance(height, int) or not isinstance(width, int)
    maps_of = axis_maps if is_traced else stored_axis_maps
    rows, columns = maps_of(height, width, size, fit, images.device)
    narrow = torch.matmul(images.float(), columns.T).clamp(0, 255)
    levels = torch.matmul(rows, narrow).clamp(0, 255)
    if fit == "pad":
        inside = rows.sum(1, keepdim=True) * columns.sum(1)  # 1 where the image is, else 0
        mean = levels.sum((2, 3), keepdim=True) / inside.sum()
        levels = levels + (1 - inside) * mean.round()
    return levels


def axis_maps(
    height: int, width: int, size: tuple[int, int], fit: Fit, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of images of height x width px that are brought to `size`: of rows (h, height), of columns (w, width)."""
    sides = [torch.full((), side, dtype=torch.float32, device=device) for side in (height, width)]
    lengths, counts = sides, [torch.full_like(sides[0], out) for out in size]
    shares = [side / out for side, out in zip(sides, size, strict=True)]
    if fit == "crop":
        least = torch.minimum(*shares)
        lengths = [least * out for out in size]
    elif fit == "pad":
        most = torch.maximum(*shares)
        counts = [(side / most).round().clamp(min=1) for side in sides]
    rows = axis_map(height, size[0], sides[0], lengths[0], counts[0])
    return rows, axis_map(width, size[1], sides[1], lengths[1], counts[1])


stored_axis_maps = lru_cache(maxsize=16)(axis_maps)


def axis_map(size: int, out: int, side: Tensor, length: Tensor, count: Tensor) -> Tensor:
    """One axis of the map: (out, size), rows sum to 1, but for those where no image is: these are 0.

    size: px of the image, and side the same as a tensor. length: px of a box in its middle. count: px that the box
    becomes, in the middle of `out`.
    """
    scale = length / count
    first = ((out - count) / 2).floor()
    place = torch.arange(out, device=side.device) - first
    centre = (side - length) / 2 + (place + 0.5) * scale
    pixel = torch.arange(size, device=side.device) + 0.5
    weight = cubic((pixel - centre[:, None]) / scale.clamp(min=1))
    inside = (place >= 0) & (place < count)
    weight = weight * inside[:, None]
    return weight / torch.where(inside, weight.sum(1), 1.0)[:, None]
