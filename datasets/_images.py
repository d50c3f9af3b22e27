"""ImageSet: what every entry of datasets/ returns from load(root, split, ...)."""

from dataclasses import dataclass

import torch

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSet:
    """N images of one split, stored side by side, and what is needed to normalise and score them."""

    pixels: torch.Tensor  # uint8 (N, C, H, W), in memory or over a memory map of the cache
    labels: torch.Tensor | None  # int64 (N,); None when unlabelled
    classes: tuple[str, ...]  # class names in label order; () when unlabelled
    mean: tuple[float, ...]  # per channel, in units of 0..1
    std: tuple[float, ...]

    def __post_init__(self):
        if self.labels is not None and len(self.labels) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.pixels)


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}: it is 'train' or 'test'")
