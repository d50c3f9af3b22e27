"""Operations on the values of uint8 images, integer for integer as Pillow's ImageOps and ImageEnhance.

All take images (B, C, H, W) uint8 on any device and, where they have one, an amount per sample (B,), and return uint8.
The enhancing operations blend with a degenerate image: factor 1 keeps the image, 0 gives the degenerate one, others
extrapolate. C is 3 (red, green, blue) or 1.
"""

import torch

from .device import send

_LUMA = (19595, 38470, 7471)  # ITU-R 601 weights in 16-bit fixed point


def invert(images: torch.Tensor) -> torch.Tensor:
    return 255 - images


def posterise(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest `bits` bits of each value."""
    mask = 256 - 2 ** (8 - bits.long())
    return images & _per_sample(mask.to(torch.uint8), images)


def solarise(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert the values at or above `threshold` (0..256)."""
    return torch.where(images < _per_sample(threshold.ceil().int(), images), images, 255 - images)


def solarise_add(images: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Raise the values below 128 by `amount`, at most to 255."""
    raised = images + _per_sample(amount.int(), images)
    return torch.where(images < 128, raised.clamp(max=255).to(torch.uint8), images)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(torch.zeros((), device=images.device), images, factor)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the mean of the image's luma, rounded."""
    grey = luma(images).flatten(1)
    total = grey.sum(1, dtype=torch.int64)
    mean = (2 * total + grey.shape[1]) // (2 * grey.shape[1])
    return _blend(_per_sample(mean, images), images, factor)


def colour(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the grey image (saturation)."""
    return _blend(luma(images), images, factor)


def sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image smoothed by a 3x3 filter of weights 1 and 5 in the middle; the border stays as it is."""
    values = images.to(torch.int32)
    inner = values[:, :, 1:-1, 1:-1]
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = torch.div(2 * total + 13, 26, rounding_mode="floor")
    return _blend(smooth, images, factor)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to 0..255; a constant channel stays as it is."""
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    low, high = (
        edge[..., None, None].to(exact) for edge in torch.aminmax(images.flatten(2), dim=2)
    )
    scale = torch.full_like(low, 255) / (high - low).clamp(
        min=1
    )  # 255 / x would multiply by a rounded 1 / x
    stretched = (images * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalise(images: torch.Tensor) -> torch.Tensor:
    """Make each channel's histogram flat, by a table per channel."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    largest = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - largest) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(2, pixels).to(torch.uint8).view_as(images)


def luma(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) int32 grey values of colour images; grey images as they are."""
    if images.shape[1] == 1:
        return images.to(torch.int32)
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0x8000) >> 16)[:, None]


def _blend(degenerate: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """degenerate + factor * (images - degenerate), cut to 0..255 and rounded down as Pillow does."""
    start = degenerate.float()
    return (
        (start + _per_sample(factor.float(), images) * (images - start))
        .clamp_(0, 255)
        .to(torch.uint8)
    )


def _per_sample(amounts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return send(amounts, images.device)[:, None, None, None]
