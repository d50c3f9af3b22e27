"""Which sizes an architecture takes: default patches, and one-line errors that name the nearest sizes that work."""

import math
from typing import Any

from timm.layers import to_2tuple
from torch import Tensor

Size = int | tuple[int, int]
"""A square's side in pixels, or height and width."""

SMALL_IMAGE = 32  # px, the side up to which default patches are smaller


def height_width(image_size: Size) -> tuple[int, int]:
    height, width = to_2tuple(image_size)
    return height, width


def shorter_side(image_size: Size) -> int:
    return min(height_width(image_size))


def default_patch(image_size: Size, at_most: int) -> int:
    """The largest patch up to `at_most` px that divides the image and, if that is even, half-size crops; at least 1."""
    side = math.gcd(*height_width(image_size))
    if side % 2 == 0:
        side = side // 2
    patch = max(at_most, 1)
    while side % patch:
        patch -= 1
    return patch


def pyramid_patch(image_size: int) -> int:
    """The patch of a network whose later stages merge tokens: up to 2 px for images up to 32 px, else up to 4."""
    return default_patch(image_size, small_or_large(image_size, 2, 4))


def small_or_large(image_size: int, small: int, large: int) -> int:
    """`small` for images up to 32 px, else `large`."""
    if image_size <= SMALL_IMAGE:
        return small
    return large


def check_patch(image_size: Size, patch_size: int) -> None:
    """ValueError unless square patches of `patch_size` px tile an image of `image_size` px."""
    for side in height_width(image_size):
        _check_side(side, patch_size)


def _check_side(image_size: int, patch_size: int) -> None:
    if image_size < 1 or patch_size < 1:
        raise ValueError(
            f"image size {image_size} and patch size {patch_size} must be at least 1 px"
        )
    if image_size % patch_size:
        near = _nearest_divisors(image_size, patch_size)
        raise ValueError(
            f"patch size {patch_size} does not divide image size {image_size}; the nearest that do: {_list(near)}"
        )


def _nearest_divisors(number: int, size: int) -> list[int]:
    """The largest divisor of a number below `size` and the smallest above, where there are."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    below = [divisor for divisor in divisors if divisor < size]
    above = [divisor for divisor in divisors if divisor > size]
    return below[-1:] + above[:1]


def check_images(x: Tensor, channels: int, patch_size: int) -> None:
    """ValueError unless x is (B, channels, h, w) and patches of `patch_size` px tile each image."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"this network takes images (batch, {channels}, height, width), not {tuple(x.shape)}"
        )
    for side in x.shape[-2:]:
        if side % patch_size or side == 0:
            near = _nearest_multiples(side, patch_size)
            raise ValueError(
                f"{side} px is no whole number of {patch_size} px patches; the nearest that are: {_list(near)}"
            )


def check_heads(embed_dim: int, num_heads: int) -> None:
    """ValueError unless every head gets the same whole number of channels."""
    if embed_dim < 1 or num_heads < 1:
        raise ValueError(
            f"embedding width {embed_dim} and number of heads {num_heads} must be at least 1"
        )
    if embed_dim % num_heads:
        near = _nearest_multiples(embed_dim, num_heads)
        raise ValueError(
            f"{num_heads} heads cannot share embedding width {embed_dim}; the nearest they can: {_list(near)}"
        )


def check_layers(num_layers: int) -> None:
    """ValueError unless there is at least one block."""
    if num_layers < 1:
        raise ValueError(f"the number of layers is {num_layers}; it must be at least 1")


def timm_sizes(
    image_size: Size,
    patch_size: int,
    in_channels: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    vit_mlp_ratio: float,
    qkv_bias: bool,
    drop_rate: float,
    drop_path_rate: float,
) -> dict[str, Any]:
    """Our options of a plain transformer under timm's names. ValueError on sizes that clash."""
    check_patch(image_size, patch_size)
    check_heads(embed_dim, num_heads)
    check_layers(num_layers)
    return {
        "img_size": image_size,
        "patch_size": patch_size,
        "in_chans": in_channels,
        "embed_dim": embed_dim,
        "depth": num_layers,
        "num_heads": num_heads,
        "mlp_ratio": vit_mlp_ratio,
        "qkv_bias": qkv_bias,
        "pos_drop_rate": drop_rate,
        "proj_drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
    }


def _nearest_multiples(number: int, factor: int) -> list[int]:
    """The multiples of a factor next to a number; 0 is none."""
    below = number // factor * factor
    above = below + factor
    if below == 0:
        return [above]
    return [below, above]


def _list(sizes: list[int]) -> str:
    return " and ".join(str(size) for size in sizes)
