"""What stage two does to its training images: the flags of augmentation and mixing, a part of recipe.py."""

from dataclasses import dataclass
from typing import Literal

from ..augment.autoaugment import POLICIES
from ..augment.crop import RandomResizedCrop
from ..augment.erasing import Erasing
from ..supervised.augmentation import TrainTransform, read_policy
from ..supervised.mixing import Mixing
from .parts import require

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pair = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    flip: float | None = None
    """Probability of a horizontal flip (None: 0.5, on SVHN's digits 0; as published: 0.5 everywhere)."""
    padding: int = 4
    """Pixels of black border before the random crop to the original size."""
    crop_scale: Pair | None = None
    """Least and greatest share of an image's area in random resized crops (None: instead of them, --padding)."""
    crop_ratio: Pair = (3 / 4, 4 / 3)
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
    crop_pct: float | None = None
    """Share of a test image's side that is seen, in the middle, after bicubic resizing (None: all, bilinear)."""

    def check_augmentation(self) -> None:
        """ValueError names the flag whose value is out of range."""
        for name in ("padding", "mixup_off_epoch"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("alpha", "beta"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        for name in ("re", "mix_prob", "mixup_switch_prob", "flip", "color_jitter"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, value, "must be within 0 and 1")
        require(
            Erasing.min_area <= self.re_sh <= 1,
            "re_sh",
            self.re_sh,
            f"must be within {Erasing.min_area} and 1",
        )
        for name in ("re_r1", "crop_pct"):
            value = getattr(self, name)
            require(value is None or 0 < value <= 1, name, value, "must be above 0 and at most 1")
        self._check_crops()
        if self.aa_policy.startswith("rand"):
            read_policy(self.aa_policy)
        else:
            known = ("auto", *POLICIES)
            require(
                self.aa_policy in known,
                "aa_policy",
                self.aa_policy,
                f"take {', '.join(known)} or a RandAugment",
            )

    def _check_crops(self) -> None:
        low, high = self.crop_scale or (1, 1)
        require(
            0 < low <= high <= 1,
            "crop_scale",
            f"{low:g} {high:g}",
            "must be two shares, 0 < least <= greatest <= 1",
        )
        low, high = self.crop_ratio
        require(
            0 < low <= high,
            "crop_ratio",
            f"{low:g} {high:g}",
            "must be two ratios, 0 < least <= greatest",
        )

    def augmentation(
        self, entry: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> TrainTransform:
        """The transform of training images for an entry of datasets/."""
        cut = (
            RandomResizedCrop(self.crop_scale, self.crop_ratio, self.flips(entry))
            if self.crop_scale
            else None
        )
        return TrainTransform(
            size, mean, std, flip=self.flips(entry), padding=self.padding, cut=cut, policy=self.policy(entry),
            color_jitter=0.0 if self.aa else self.color_jitter, erase=self.erasing(), fill=self.filling(mean),
        )  # fmt: skip

    def erasing(self) -> Erasing | None:
        return (
            Erasing(self.re, self.re_sh, self.re_r1, log_aspect=self.re_aspect == "log")
            if self.re
            else None
        )

    def filling(self, mean: tuple[float, ...]) -> float | tuple[float, ...] | None:
        """What an erased box holds after normalisation; None for noise."""
        return None if self.re_mode == "pixel" else mean if self.re_fill == "published" else 0.0

    def colours(
        self, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that images are normalised by, of a data set that has these."""
        return IMAGENET if self.normalise == "imagenet" and len(mean) == 3 else (mean, std)

    def policy(self, entry: str) -> str | None:
        """The AutoAugment policy or the RandAugment for an entry of datasets/; None where it is off."""
        own = {"svhn": "svhn", "tiny_imagenet": "imagenet", "cinic10": "imagenet"}.get(
            entry, "cifar10"
        )
        return (own if self.aa_policy == "auto" else self.aa_policy) if self.aa else None

    def flips(self, entry: str) -> float:
        """The probability of a flip for an entry of datasets/: mirrored digits are no digits."""
        return self.flip if self.flip is not None else 0.0 if entry == "svhn" else 0.5

    def mixing(self, epoch: int = 0, copies: int = 1) -> Mixing:
        """What happens to batches in an epoch, counted from 0. copies: how many of an image stand in a row."""
        ended = self.mixup_off_epoch and epoch >= self.mixup_off_epoch
        shares = self.beta if self.cm else None, self.alpha if self.mu else None
        return Mixing(*shares, 0.0 if ended else self.mix_prob, self.mixup_switch_prob, copies)
