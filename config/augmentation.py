"""What stage two does to its training images: augmentation and mixing, a part of finetune.py."""

from dataclasses import dataclass
from typing import Literal

from .checks import ABOVE_0, NOT_NEGATIVE, SHARE, SHARE_ABOVE_0, check_values, require

LEAST_ERASED = 0.02  # share of the image's area: the published lower bound of random erasing


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images."""

    flip: float | None = None
    """Probability of a horizontal flip (None: 0.5; 0 on SVHN's digits, and where stage one had --crop_flip 0;
    as published: 0.5 everywhere)."""
    padding: int = 4
    """Pixels of border before the random crop to the original size."""
    padding_fill: Literal["black", "edge"] | None = None
    """The border: black, as published, or like the image's own (None: edge for one's own images and where the network
    standardises images, as black makes training images darker than test images; else black)."""
    crop_scale: tuple[float, float] | None = None
    """Least and greatest share of an image's area in random resized crops (None: instead of them, --padding)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height of these crops."""
    aa: bool = True
    """AutoAugment or RandAugment."""
    aa_policy: str = "auto"
    """cifar10, svhn, imagenet, or a RandAugment as timm writes it, rand-m9-mstd0.5-inc1 (auto: the data set's own
    policy, imagenet for Tiny-ImageNet and CINIC-10, else cifar10)."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by factors within 1 +- this; with --aa, as published, they do not."""
    re: float = 0.25
    """Probability of random erasing."""
    re_sh: float = 0.4
    """Largest share of the image's area that is erased."""
    re_r1: float = 0.3
    """Least aspect ratio of the erased box; its inverse is the greatest."""
    re_fill: Literal["mean", "published"] = "mean"
    """The erased box is of the mean colour; published: of the mean's value after normalisation."""
    re_mode: Literal["const", "pixel"] = "const"
    """The erased box is of one colour; pixel: of normal noise."""
    re_aspect: Literal["uniform", "log"] = "uniform"
    """Its aspect ratio is uniform; log: uniform in its logarithm."""
    cm: bool = True
    """CutMix."""
    beta: float = 1.0
    """Its shares are Beta(beta, beta) distributed."""
    mu: bool = True
    """MixUp."""
    alpha: float = 1.0
    """Its shares are Beta(alpha, alpha) distributed."""
    mix_prob: float = 0.5
    """Probability that a batch is mixed, by CutMix or MixUp."""
    mixup_switch_prob: float = 0.5
    """Probability that it is CutMix where both are on."""
    mixup_off_epoch: int = 0
    """Epochs after which no batch is mixed any more (0: always)."""
    normalise: Literal["own", "imagenet"] = "own"
    """Mean and standard deviation of the colours: the data set's own, or ImageNet's."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """How stored images of another size than the network's are brought to it, antialiased: by stage two and its
    accuracies (locality guidance: bilinear)."""
    crop_pct: float | None = None
    """Share of a test image's side that is seen, in the middle, after bicubic resizing (None: all of it)."""

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "padding", "mixup_off_epoch")
        check_values(self, ABOVE_0, "alpha", "beta")
        shares = ("re", "mix_prob", "mixup_switch_prob", "flip", "color_jitter")
        check_values(self, SHARE, *shares)
        largest = self.re_sh
        require(
            LEAST_ERASED <= largest <= 1, "re_sh", largest, f"must be within {LEAST_ERASED} and 1"
        )
        check_values(self, SHARE_ABOVE_0, "re_r1", "crop_pct")
        self._check_crops()

    def _check_crops(self) -> None:
        low, high = self.crop_scale or (1, 1)
        shown = f"{low:g} {high:g}"
        words = "must be two shares, 0 < least <= greatest <= 1"
        require(0 < low <= high <= 1, "crop_scale", shown, words)
        low, high = self.crop_ratio
        shown = f"{low:g} {high:g}"
        words = "must be two ratios, 0 < least <= greatest"
        require(0 < low <= high, "crop_ratio", shown, words)

    @property
    def mixes(self) -> bool:
        """Whether batches may be mixed."""
        return self.mix_prob > 0 and (self.cm or self.mu)
