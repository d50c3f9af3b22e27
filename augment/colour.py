"""Brightness, contrast, saturation, hue, grayscale and solarise of a batch, with every sample's own strength.

`planes` are levels 0..255 (C, ..., h, w) with C 3 or 1, in `jitter_` any number; a parameter has the shape (...), one
number per sample. All work in place. Each equals its Pillow/torchvision counterpart up to rounding: those go back to
whole levels after every operation (mostly downwards), these only keep within 0..255. With one channel, saturation, hue
and grayscale change nothing, as in torchvision.

Of other numbers of channels the first three (of two the first) are the colours; each further one, say near infrared,
is a grey image of its own, to which only brightness and contrast happen.
"""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the "L" of Pillow
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
IDENTITY = (1.0, 1.0, 1.0, 0.0)


def brightness_(planes: Tensor, factor: Tensor) -> Tensor:
    """Towards black (0), unchanged (1), beyond."""
    zero = torch.zeros_like(factor)
    return blend_(planes, factor, gray=zero, mean=zero)


def contrast_(planes: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean luma (0), unchanged (1), beyond."""
    zero = torch.zeros_like(factor)
    return blend_(planes, factor, gray=zero, mean=1 - factor)


def saturation_(planes: Tensor, factor: Tensor) -> Tensor:
    """Towards gray (0), unchanged (1), beyond."""
    zero = torch.zeros_like(factor)
    return blend_(planes, factor, gray=1 - factor, mean=zero)


def grayscale_(planes: Tensor, chosen: Tensor) -> Tensor:
    """All channels become the luma where chosen (bool)."""
    return saturation_(planes, (~chosen).float())


def solarise_(planes: Tensor, chosen: Tensor) -> Tensor:
    """Invert the levels from 128 up where chosen (bool)."""
    # On whole levels this is min(v, 255 - v); with 510 in place of 255 nothing changes.
    inverted = 510 - 255 * _over_pixels(chosen) - planes
    return torch.minimum(planes, inverted, out=planes)


def jitter_(planes: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """The four operations of torchvision's ColorJitter in each sample's own order.

    order (..., 4) int64: the operation at each turn; factors (..., 4): strengths by operation (BRIGHTNESS, CONTRAST,
    SATURATION as multipliers, HUE in turns); IDENTITY leaves a sample as it is.

    All but hue are one formula (blend_) with different weights. So hue, the dear one, is done once for everybody,
    between three blends for the turns before a sample's hue and three for the turns after it.
    """
    coloured = colours(planes)
    _jitter_colours(coloured, order, factors)
    for channel in range(len(coloured), len(planes)):
        _jitter_colours(planes[channel : channel + 1], order, factors)
    return planes


def colours(planes: Tensor) -> Tensor:
    """The planes that are colours: the first three, or the first where there are fewer."""
    return planes[:3] if len(planes) >= 3 else planes[:1]


def _jitter_colours(planes: Tensor, order: Tensor, factors: Tensor) -> None:
    """The four operations on one or three planes."""
    factor = factors.gather(-1, order).movedim(-1, 0)  # (4, ...) by turn
    operation = order.movedim(-1, 0)
    is_hue = operation == HUE
    after = is_hue.cumsum(0) > 0
    for turn in range(3):
        _blend_where(planes, ~after[turn], operation[turn], factor[turn])
    hue_(planes, factors[..., HUE])
    for turn in range(1, 4):
        _blend_where(planes, after[turn] & ~is_hue[turn], operation[turn], factor[turn])


def _blend_where(planes: Tensor, active: Tensor, operation: Tensor, factor: Tensor) -> None:
    """The turn's operation where `active`, if it is not hue."""
    rest = (1 - factor) * active
    gray = rest * (operation == SATURATION)
    mean = rest * (operation == CONTRAST)
    blend_(planes, 1 - rest, gray, mean)


def blend_(planes: Tensor, factor: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """planes <- factor * planes + gray * luma + mean * (the image's mean luma), kept within 0..255."""
    added = luma(planes)
    average = (added.mean((-2, -1)) + 0.5).floor_()  # a whole level, as in Pillow
    added.mul_(_over_pixels(gray))
    added.add_(_over_pixels(mean * average))
    torch.addcmul(added, planes, _over_pixels(factor), out=planes)
    return planes.clamp_(0, 255)


def luma(planes: Tensor) -> Tensor:
    """planes (C, ..., h, w) -> (..., h, w), always a copy."""
    if len(planes) == 1:
        return planes[0].clone()
    red, green, blue = planes
    total = red * LUMA[0]
    total.add_(green, alpha=LUMA[1])
    return total.add_(blue, alpha=LUMA[2])


def hue_(planes: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by shift (turns), keeping value and chroma of HSV.

    On the hexagon of hues with corners red 0, yellow 1, green 2, ..., a channel is at its highest within 1 of its own
    corner, at its lowest beyond 2, and linear between (Smith 1978, "Color gamut transform pairs"). Positions here are
    multiplied by the chroma, which saves the division by it, and signed: red is 0, green 2, blue -2, within +-3.
    """
    if len(planes) == 1:
        return planes
    red, green, blue = planes
    high = torch.maximum(red, green)
    low = torch.minimum(red, green)
    torch.maximum(high, blue, out=high)
    torch.minimum(low, blue, out=low)
    chroma = high - low
    # The position is green - blue where red is highest. Elsewhere |green - blue| + (high - red), the second term being
    # short where red is lowest; the smaller of these two is right in all three cases.
    side = green - blue
    height = side.abs()
    gap = high - red
    red_lowest = (gap - height).add_(chroma, alpha=2)
    red_above = height.add_(gap, alpha=3)
    position = torch.minimum(red_lowest, red_above).copysign_(side)
    # How far the shifted position is from a channel's corner, up to whole turns: within +-6.
    corner = torch.arange(0, 6, 2, device=planes.device)
    corner = corner.view(3, *[1] * shift.ndim)
    away = (6 * shift - corner + 3).remainder(6) - 3
    torch.addcmul(position, chroma, _over_pixels(away), out=planes)
    planes.abs_().sub_(chroma, alpha=3).abs_()  # 3 - the distance the short way round
    return torch.clamp(planes.add_(low - chroma), low, high, out=planes)


def _over_pixels(parameter: Tensor) -> Tensor:
    return parameter[..., None, None]
