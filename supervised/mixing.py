"""CutMix (Yun et al. 2019, arXiv 1905.04899) and MixUp (Zhang et al. 2018, arXiv 1710.09412): one draw per batch.

Each image is mixed with its neighbour (0 with 1, 2 with 3, ...). The order of a batch is a uniform shuffle, so that a
neighbour is a uniformly random partner, and a pair stays together when the batch is cut into even shares. Where copies
of an image stand in a row, as with repeated augmentation, partners are a few places apart. timm's batch mode pairs the
first image with the last and so on, locality guidance's a random permutation: both are the same in distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..config.augmentation import Augmentation


@dataclass(frozen=True)
class Mix:
    """What happens to a batch. share: how much of each image is its own; box: rows and columns from the partner.

    distance: from an image to its partner, a power of two.
    """

    share: float = 1.0
    box: tuple[slice, slice] | None = None
    distance: int = 1


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: images (B, C, H, W), their own labels (B,) and their partners' (B,).

    share: how much of each image is its own. maps: the teacher's maps of these images, (B, width, h, w) each, where
    they are stored; such batches are not mixed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    partners: torch.Tensor
    share: float
    maps: Sequence[torch.Tensor] = ()


@dataclass(frozen=True)
class Mixing:
    """Mix a batch with `probability`, by CutMix with probability `switch`, else MixUp; None leaves one of them out.

    The own share is Beta(cutmix, cutmix) or Beta(mixup, mixup) distributed. copies: how many of an image may stand in a
    row; they are not mixed with each other.
    """

    cutmix: float | None = 1.0
    mixup: float | None = 1.0
    probability: float = 0.5
    switch: float = 0.5
    copies: int = 1

    @classmethod
    def from_recipe(cls, recipe: Augmentation, epoch: int = 0, copies: int = 1) -> "Mixing":
        """What happens to batches in an epoch, counted from 0."""
        ended = recipe.mixup_off_epoch > 0 and epoch >= recipe.mixup_off_epoch
        return cls(
            cutmix=recipe.beta if recipe.cm else None,
            mixup=recipe.alpha if recipe.mu else None,
            probability=0.0 if ended else recipe.mix_prob,
            switch=recipe.mixup_switch_prob,
            copies=copies,
        )

    @property
    def distance(self) -> int:
        """From an image to its partner: the least power of two that leaves its copies behind."""
        return 1 << (self.copies - 1).bit_length()

    def draw(self, height: int, width: int, generator: torch.Generator) -> Mix:
        """What happens to a batch of images of height x width px: a function of the generator's state."""
        seed = torch.randint(2**62, (), generator=generator).item()
        random = np.random.default_rng(int(seed))
        if self.cutmix is None and self.mixup is None:
            return Mix()
        if random.random() >= self.probability:
            return Mix()
        cuts = random.random() < self.switch  # drawn also where only one of the two is on
        if self.cutmix is not None and (cuts or self.mixup is None):
            share = random.beta(self.cutmix, self.cutmix)
            centre = int(random.integers(height)), int(random.integers(width))
            return cutmix_box(share, height, width, centre, self.distance)
        assert self.mixup is not None
        share = random.beta(self.mixup, self.mixup)
        return Mix(share, distance=self.distance)


def cutmix_box(
    share: float, height: int, width: int, centre: tuple[int, int], distance: int = 1
) -> Mix:
    """A box of area 1 - share about a centre (row, column), clipped at the border, which raises the share."""
    side = math.sqrt(1 - share)  # as a share of the image's
    rows = _span(centre[0], int(height * side), height)
    columns = _span(centre[1], int(width * side), width)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(1 - area / (height * width), (rows, columns), distance)


def apply(images: torch.Tensor, labels: torch.Tensor, mix: Mix) -> Mixed:
    """Mix float images (B, C, H, W) and labels (B,) with their partners. An image without a partner stays as it is."""
    if mix.share == 1:
        return Mixed(images, labels, labels, 1.0)
    index = partners(len(images), mix.distance, images.device)
    others = images[index]
    if mix.box is None:
        mixed = torch.lerp(others, images, mix.share)
    else:
        mixed = images.clone()
        rows, columns = mix.box
        mixed[:, :, rows, columns] = others[:, :, rows, columns]
    return Mixed(mixed, labels, labels[index], mix.share)


def partners(batch: int, distance: int = 1, device: torch.device | str = "cpu") -> torch.Tensor:
    """1, 0, 3, 2, ... or, at distance 2, 2, 3, 0, 1, 6, ...: (B,) int64; an image without a partner is its own."""
    own = torch.arange(batch, device=device)
    partner = own ^ distance
    return torch.where(partner < batch, partner, own)


def _span(centre: int, length: int, size: int) -> slice:
    """Pixels about a centre, clipped at the border."""
    start = max(0, centre - length // 2)
    stop = min(size, centre + length // 2)
    return slice(start, stop)
