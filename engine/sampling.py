"""Orders of an epoch's images: positions 0 .. N - 1, a function of (seed, epoch) alone, for all ranks together."""

import torch
from torch import Tensor

from . import seeds


def shuffled(images: int, seed: int, epoch: int, passes: int = 1) -> Tensor:
    """`passes` independent shuffles, chained: (passes * N,)."""
    random = seeds.generator(seed, "order", epoch)
    return torch.cat([torch.randperm(images, generator=random) for _ in range(passes)])


def repeated(images: int, seed: int | None, epoch: int, repeats: int = 3) -> Tensor:
    """Repeated augmentation: the first images of a shuffle, each `repeats` times in a row, cut to (N,).

    Hoffer et al. 2020, arXiv 1901.09335, in the form of DeiT (Touvron et al. 2021, arXiv 2012.12877) that DHVT and
    LocalViT use: an epoch is as long as without repeats and sees about a third of the images. seed=None takes the
    published shuffle, which depends on the epoch alone.
    """
    random = (
        torch.Generator().manual_seed(epoch)
        if seed is None
        else seeds.generator(seed, "order", epoch)
    )
    needed = -(-images // repeats)
    return torch.randperm(images, generator=random)[:needed].repeat_interleave(repeats)[:images]
