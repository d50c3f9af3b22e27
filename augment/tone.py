"""Operations on the values of uint8 images, integer for integer as Pillow's ImageOps and ImageEnhance.

All take images (B, C, H, W) uint8 on any device and, where they have one, an amount per sample (B,) there, and return
uint8; `change` brings the amounts there.
The enhancing operations blend with a degenerate image: factor 1 keeps the image, 0 gives the degenerate one, others
extrapolate. C is 3 (red, green, blue) or 1; `on_colours` takes any number.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import device
from .changes import Change

_LUMA = (19595, 38470, 7471)  # ITU-R 601 weights in 16-bit fixed point
_HALF = 0x8000  # in the same, for rounding


def on_colours(operation: Callable[..., Tensor], images: Tensor, *amount: Tensor) -> Tensor:
    """An operation on images of any number of channels, of which the first three, of two the first, are colours.

    Each further one, say near infrared, is a grey image of its own, to which only brightness and contrast happen.
    """
    channels = images.shape[1]
    if channels in (1, 3):
        return operation(images, *amount)
    coloured = 3 if channels > 3 else 1
    parts = [operation(images[:, :coloured], *amount)]
    for plane in images[:, coloured:].split(1, dim=1):
        parts.append(operation(plane, *amount) if operation in (brightness, contrast) else plane)
    return torch.cat(parts, 1)


def change(operation: Callable[..., Tensor], amounts: Tensor, height: int, width: int) -> Change:
    """An operation on colours, and its amounts on the CPU as drawn: factors, bits to keep, thresholds or raises."""
    if operation in (invert, autocontrast, equalise):
        numbers: tuple[Tensor, ...] = ()
    elif operation is posterise:
        mask = 256 - 2 ** (8 - amounts.long())
        numbers = (mask.to(torch.uint8),)
    elif operation is solarise:
        numbers = (amounts.ceil().int(),)
    elif operation is solarise_add:
        numbers = (amounts.int(),)
    else:
        numbers = (amounts.float(),)
    return Change(numbers, partial(on_colours, operation))


def invert(images: Tensor) -> Tensor:
    """Every level v becomes 255 - v."""
    return 255 - images


def posterise(images: Tensor, mask: Tensor) -> Tensor:
    """Keep those bits of each value that are set in `mask`, uint8."""
    return images & _per_sample(mask)


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at or above `threshold` (0..256), int32."""
    limit = _per_sample(threshold)
    return torch.where(images < limit, images, 255 - images)


def solarise_add(images: Tensor, amount: Tensor) -> Tensor:
    """Raise the values below 128 by `amount`, int32, at most to 255."""
    raised = images + _per_sample(amount)
    raised = raised.clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, raised, images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    black = torch.zeros((), device=images.device)
    return _blend(black, images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the image's luma, rounded."""
    grey = luma(images).flatten(1)
    pixels = grey.shape[1]
    total = grey.sum(1, dtype=torch.int64)
    mean = (2 * total + pixels) // (2 * pixels)
    return _blend(_per_sample(mean), images, factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image (saturation)."""
    return _blend(luma(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 filter of weights 1 and 5 in the middle; the border stays as it is."""
    values = images.to(torch.int32)
    inner = values[:, :, 1:-1, 1:-1]
    # The sum over 3 x 3 neighbours, one axis after the other.
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    neighbours = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    total = neighbours + 4 * inner
    mean = torch.div(2 * total + 13, 26, rounding_mode="floor")
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = mean
    return _blend(smooth, images, factor)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a constant channel stays as it is."""
    exact = torch.float64
    if not device.has_float64(images.device):
        exact = torch.float32
    least, greatest = torch.aminmax(images.flatten(2), dim=2)
    low = _over_pixels(least).to(exact)
    high = _over_pixels(greatest).to(exact)
    span = (high - low).clamp(min=1)
    scale = torch.full_like(low, 255) / span  # 255 / span would multiply by a rounded 1 / span
    stretched = (images * scale - low * scale).clamp(0, 255)
    return torch.where(high > low, stretched.to(torch.uint8), images)


def equalise(images: Tensor) -> Tensor:
    """Make each channel's histogram flat, by a table per channel."""
    pixels = images.flatten(2).long()
    B, C, N = pixels.shape
    counts = torch.zeros(B, C, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    brightest = pixels.amax(2, keepdim=True)
    step = (N - counts.gather(2, brightest)) // 255
    below = counts.cumsum(2) - counts
    table = (step // 2 + below) // step.clamp(min=1)
    identity = torch.arange(256, device=images.device)
    table = torch.where(step > 0, table.clamp(max=255), identity)
    levels = table.gather(2, pixels)
    return levels.to(torch.uint8).view_as(images)


def luma(images: Tensor) -> Tensor:
    """(B, 1, H, W) int32 grey values of colour images; grey images as they are."""
    values = images.to(torch.int32)
    if images.shape[1] == 1:
        return values
    red, green, blue = values.unbind(1)
    red_weight, green_weight, blue_weight = _LUMA
    total = red_weight * red + green_weight * green + blue_weight * blue
    grey = (total + _HALF) >> 16
    return grey[:, None]


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """degenerate + factor * (images - degenerate), cut to 0..255 and rounded down as Pillow does."""
    start = degenerate.float()
    factor = _per_sample(factor)
    values = start + factor * (images - start)
    return values.clamp_(0, 255).to(torch.uint8)


def _per_sample(amounts: Tensor) -> Tensor:
    """Amounts (B,) as (B, 1, 1, 1)."""
    return _over_pixels(amounts[:, None])


def _over_pixels(values: Tensor) -> Tensor:
    return values[..., None, None]
