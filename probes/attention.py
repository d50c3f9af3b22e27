"""Where the class token looks: attention maps on the image, and the mask of the patches that hold most of it.

Caron et al. 2021 (arXiv 2104.14294), figures 1 and 8. B images, N tokens with the class token first.
"""

import math

from torch import Tensor


def heat_maps(attention: Tensor, image_size: int | tuple[int, int]) -> Tensor:
    """Attention after the softmax (B, heads, N, N) -> class token to patches (B, heads, H, W), nearest-upsampled.

    ValueError when N - 1 tokens are not a patch grid of that image.
    """
    grid = _on_grid(attention, image_size)
    return _upsample(grid, _sides(image_size)[0] // grid.shape[-2])


def mass_masks(attention: Tensor, image_size: int | tuple[int, int], mass: float = 0.6) -> Tensor:
    """bool (B, heads, H, W): the strongest patches of each head that together hold the fraction `mass` of it."""
    if not 0 < mass <= 1:
        raise ValueError(
            f"the fraction of attention to keep must be above 0 and at most 1, not {mass}"
        )
    grid = _on_grid(attention, image_size)
    weakest, order = grid.flatten(2).sort(dim=-1)
    running = (weakest / weakest.sum(-1, keepdim=True)).cumsum(-1)
    keep = (running > 1 - mass).gather(-1, order.argsort(-1)).view_as(grid)
    return _upsample(keep, _sides(image_size)[0] // grid.shape[-2])


def _on_grid(attention: Tensor, image_size: int | tuple[int, int]) -> Tensor:
    """The class token's row without itself, (B, heads, H / patch, W / patch)."""
    height, width = _sides(image_size)
    patches = attention.shape[-1] - 1
    patch = math.isqrt(height * width // patches) if patches > 0 else 0
    if (
        not patch
        or height % patch
        or width % patch
        or (height // patch) * (width // patch) != patches
    ):
        raise ValueError(
            f"{attention.shape[-1]} tokens are not a class token and a grid of square patches "
            f"of a {height} x {width} image"
        )
    return attention[:, :, 0, 1:].unflatten(-1, (height // patch, width // patch))


def _upsample(grid: Tensor, patch: int) -> Tensor:
    return grid.repeat_interleave(patch, -2).repeat_interleave(patch, -1)


def _sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    return (image_size, image_size) if isinstance(image_size, int) else image_size
