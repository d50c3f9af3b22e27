"""Orders of an epoch's images: positions 0 .. N - 1, a function of (seed, epoch) alone, for all ranks together."""

import torch
from torch import Tensor

from . import seeds


def shuffled(images: int, seed: int, epoch: int, passes: int = 1) -> Tensor:
    """`passes` independent shuffles, chained: (passes * N,)."""
    random = seeds.generator(seed, "order", epoch)
    return torch.cat([torch.randperm(images, generator=random) for _ in range(passes)])


def balanced(labels: Tensor, seed: int, epoch: int, passes: int = 1) -> Tensor:
    """Positions of images with these labels (N,), every class equally often: (passes * N,) as `shuffled` gives.

    A class's images come in chained shuffles of their own, cut to the class's share, so that each is drawn as often as
    any other of its class, give or take one. What a division leaves over goes to classes drawn at random.
    """
    random = seeds.generator(seed, "order", epoch)
    total = passes * len(labels)
    classes = labels.unique()
    shares = torch.full((len(classes),), total // len(classes))
    shares[torch.randperm(len(classes), generator=random)[: total % len(classes)]] += 1
    parts = []
    for label, share in zip(classes.tolist(), shares.tolist(), strict=True):
        members = (labels == label).nonzero().squeeze(1)
        rounds = -(-share // len(members))
        shuffles = [torch.randperm(len(members), generator=random) for _ in range(rounds)]
        parts.append(members[torch.cat(shuffles)[:share]])
    positions = torch.cat(parts)
    return positions[torch.randperm(total, generator=random)]


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
