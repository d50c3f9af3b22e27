"""CutMix (Yun et al. 2019, arXiv 1905.04899) and MixUp (Zhang et al. 2018, arXiv 1710.09412): one draw per batch.

Each image is mixed with its neighbour (0 with 1, 2 with 3, ...). The order of a batch is a uniform shuffle, so that a
neighbour is a uniformly random partner, and a pair stays together when the batch is cut into even shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Mix:
    """What happens to a batch. share: how much of each image is its own; box: rows and columns from the partner."""

    share: float = 1.0
    box: tuple[slice, slice] | None = None


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: images (B, C, H, W), the labels of their own and their partners' part (B,), the own share."""

    images: torch.Tensor
    labels: torch.Tensor
    partners: torch.Tensor
    share: float


@dataclass(frozen=True)
class Mixing:
    """Mix a batch with `probability`, by CutMix or MixUp with equal chances; a share parameter of None leaves one out.

    The own share is Beta(cutmix, cutmix) or Beta(mixup, mixup) distributed.
    """

    cutmix: float | None = 1.0
    mixup: float | None = 1.0
    probability: float = 0.5

    def draw(self, height: int, width: int, generator: torch.Generator) -> Mix:
        random = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
        kinds = [kind for kind in ("cutmix", "mixup") if getattr(self, kind) is not None]
        if not kinds or random.random() >= self.probability:
            return Mix()
        kind = kinds[random.integers(len(kinds))]
        share = float(random.beta(getattr(self, kind), getattr(self, kind)))
        return Mix(share) if kind == "mixup" else cut(share, height, width, random)


def cut(share: float, height: int, width: int, random: np.random.Generator) -> Mix:
    """A box of area 1 - share about a uniform centre, clipped at the border, which raises the share."""
    side = np.sqrt(1 - share)
    rows = _span(random.integers(height), int(height * side), height)
    columns = _span(random.integers(width), int(width * side), width)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(1 - area / (height * width), (rows, columns))


def apply(images: torch.Tensor, labels: torch.Tensor, mix: Mix) -> Mixed:
    """Mix float images (B, C, H, W) and labels (B,) with their neighbours; the last of an odd batch stays alone."""
    if mix.share == 1:
        return Mixed(images, labels, labels, 1.0)
    partner = neighbours(len(images), images.device)
    others = images[partner]
    if mix.box is None:
        mixed = torch.lerp(others, images, mix.share)
    else:
        mixed = images.clone()
        rows, columns = mix.box
        mixed[:, :, rows, columns] = others[:, :, rows, columns]
    return Mixed(mixed, labels, labels[partner], mix.share)


def neighbours(batch: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """1, 0, 3, 2, ...: (B,) int64."""
    return (torch.arange(batch, device=device) ^ 1).clamp(max=batch - 1)


def _span(centre: int, length: int, size: int) -> slice:
    return slice(max(0, int(centre) - length // 2), min(size, int(centre) + length // 2))
