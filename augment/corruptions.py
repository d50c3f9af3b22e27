"""Corruptions of images at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261), batched on any device.

They are those of CIFAR-10-C at 32 px and of Tiny-ImageNet-C at 64 px; _corrupt_severity.py says how other sizes follow.
The random numbers are our own, so the images are not those of the published files, but of the same distribution.
B images of C channels and H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import _corrupt_blur as blur
from . import _corrupt_digital as digital
from . import _corrupt_noise as noise
from . import _corrupt_weather as weather
from ._corrupt_random import ImageRandom, image_seeds
from ._corrupt_round import truncate_levels
from ._corrupt_severity import SEVERITIES, strength
from .device import exact_products

# The fifteen that the published means are of, in their order.
PUBLISHED = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
# Four more, published for choosing settings by.
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
NOT_MADE = {
    "frost": "lays photographs over images, which are not ours to ship",
    "spatter": "needs OpenCV's edges and distances, which have no batched form here",
}
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}
CORRUPTIONS = tuple(name for name in PUBLISHED if name in OPERATIONS)
"""The fourteen of the published means that are made here: all but frost."""
SMALLEST = 8  # px: below, a disk or a glass would reach over the whole image
CHANNELS = {"saturate": (3,), "jpeg_compression": (1, 3)}  # any number where nothing is said


@torch.no_grad()
def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int = 0, index: Tensor | None = None
) -> Tensor:
    """Images (B, C, H, W), uint8 or float of 0..1, corrupted at a severity of 1 to 5 -> the same shape and type.

    index (B,) are the images' numbers in their set, 0..B-1 by default: what happens to an image is a function of the
    seed, the name, the severity and its number. On another device a level may differ by one.

    Levels are whole ones, as in the published files; floats are brought to the nearest of 256 first. ValueError for
    what there is not, and for images that a corruption is not for.
    """
    check(name, severity, images.shape[1:])
    if index is None:
        index = torch.arange(len(images))
    seeds = image_seeds(index.to(images.device), seed, name, severity)
    levels = images / 255
    if images.is_floating_point():
        levels = (images.float().clamp(0, 1) * 255).round() / 255
    parameters = strength(name, severity, min(images.shape[2:]))
    with exact_products(), torch.autocast(images.device.type, enabled=False):
        corrupted = OPERATIONS[name](levels, ImageRandom(seeds), *parameters)
        corrupted = truncate_levels(corrupted)
    if images.is_floating_point():
        return corrupted.to(images.dtype)
    return (corrupted * 255).round().to(torch.uint8)


def check(name: str, severity: int, shape: torch.Size | tuple[int, ...]) -> None:
    """ValueError unless images (C, H, W) of this shape can be given this corruption."""
    if name in NOT_MADE:
        raise ValueError(f"{name} cannot be made here: it {NOT_MADE[name]}")
    if name not in OPERATIONS:
        raise ValueError(f"no corruption is called {name!r}; known: {', '.join(OPERATIONS)}")
    if severity not in range(1, SEVERITIES + 1):
        raise ValueError(f"a severity is 1 to {SEVERITIES}, not {severity}")
    channels, height, width = shape
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"images of {height} x {width} px are too small to corrupt: at least {SMALLEST} px"
        )
    allowed = CHANNELS.get(name)
    if allowed and channels not in allowed:
        numbers = " or ".join(map(str, allowed))
        raise ValueError(f"{name} is for images of {numbers} channels, and these have {channels}")
