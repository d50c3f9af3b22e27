"""ImageSet: what every entry of datasets/ returns from load(root, split, ...)."""

import hashlib
from dataclasses import dataclass

import torch

SPLITS = ("train", "test")
SAMPLE = 64  # images whose pixels are in a fingerprint


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

    def fingerprint(self) -> dict[str, str]:
        """Hashes that tell these images from others: of the pixels of a sample spread over all, of the labels."""
        count = len(self)
        sample = torch.arange(min(SAMPLE, count)) * count // min(SAMPLE, count)
        found = {"pixels": hash_of(self.pixels[sample])}
        return found if self.labels is None else {**found, "labels": hash_of(self.labels)}


def hash_of(tensor: torch.Tensor) -> str:
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(content, digest_size=8, salt=str(tuple(tensor.shape)).encode()[:16]).hexdigest()


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}: it is 'train' or 'test'")
