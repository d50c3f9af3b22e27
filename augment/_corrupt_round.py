"""Whole levels."""

from torch import Tensor

ROUNDING = 1e-4  # of a level: what float32 arithmetic may have lost must not cost a whole one


def truncate_levels(levels: Tensor) -> Tensor:
    """Levels of 0..1, brought down to multiples of 1/255, as the published sets were stored."""
    return (levels.clamp(0, 1) * 255 + ROUNDING).floor() / 255
