"""Where the class token looks: attention maps on the image, and the mask of the patches that hold most of it.

Caron et al. 2021 (arXiv 2104.14294), figures 1 and 8. B images, N tokens with the class token first.
"""

import math

from torch import Tensor


def heat_maps(attention: Tensor, image_size: int | tuple[int, int]) -> Tensor:
    """Attention after the softmax (B, heads, N, N) -> class token to patches (B, heads, H, W), nearest-upsampled.

    ValueError when N - 1 tokens are not a patch grid of that image.
    """
    grid, patch = _on_grid(attention, image_size)
    return _upsample(grid, patch)


def mass_masks(attention: Tensor, image_size: int | tuple[int, int], mass: float = 0.6) -> Tensor:
    """bool (B, heads, H, W): the strongest patches of each head that together hold the fraction `mass` of it."""
    if not 0 < mass <= 1:
        raise ValueError(
            f"the fraction of attention to keep must be above 0 and at most 1, not {mass}"
        )
    grid, patch = _on_grid(attention, image_size)
    # The share of the patches up to each, weakest first; what is above 1 - mass belongs to the strongest.
    ascending, order = grid.flatten(2).sort(dim=-1)
    shares = ascending / ascending.sum(-1, keepdim=True)
    keep = shares.cumsum(-1) > 1 - mass
    keep = keep.gather(-1, order.argsort(-1)).view_as(grid)
    return _upsample(keep, patch)


def _on_grid(attention: Tensor, image_size: int | tuple[int, int]) -> tuple[Tensor, int]:
    """The class token's row without itself, (B, heads, H / patch, W / patch), and the patch in px."""
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    height, width = image_size
    patches = attention.shape[-1] - 1
    patch = math.isqrt(height * width // patches) if patches > 0 else 0
    divides = patch > 0 and height % patch == 0 and width % patch == 0
    if not divides or height * width != patches * patch**2:
        raise ValueError(
            f"{attention.shape[-1]} tokens are not a class token and a grid of square patches "
            f"of a {height} x {width} image"
        )
    class_row = attention[:, :, 0, 1:]
    return class_row.unflatten(-1, (height // patch, width // patch)), patch


def _upsample(grid: Tensor, patch: int) -> Tensor:
    return grid.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
