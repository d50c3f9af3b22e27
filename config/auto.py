"""--recipe auto: the settings of stage one as functions of the images and of the budget, each with its reason.

Rules, not measurements: what is measured of the images comes in as `ImageFacts`, and commands/_auto.py measures it.
LOG.md has the runs that the rules were fitted on, and docs/{recipes,measured}.md those they were tried on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .flags import typed
from .pretrain import LR_BATCH
from .sizes import ImageSize, height_width, in_words

ASYMMETRIC = 0.75  # share of mirrored images that no longer look like the others: digits 0.97, signs 0.83, photos 0.5
SHORTCUT = (
    0.4  # share of the brightness's variance between images: signs 0.52, steel 0.70, photos 0.3
)
PUBLISHED_SIDE = 224  # px, for which sigmas of the blur were published
PUBLISHED_SIGMA = (0.1, 2.0)  # px
PEAK_RATE = 1e-3  # of batches from this number of images on
SMALL_BATCH = 16
KOLEO_WEIGHT = 0.1  # as DINOv2's
CONTRAST_WEIGHT = 1.0
DEFAULT_STEPS = 4000
MOST_EPOCHS = 400
PROBES = 10  # online probes in a run
# Of other networks the name says them
SIZES_OF_VIT = ("patch_size", "embed_dim", "num_layers", "num_heads", "stem", "pool")
# Where one of these is stated and no --arch, it is a vit
MEANS_VIT = (*SIZES_OF_VIT, "attention_init", "patch_drop_rate")


@dataclass(frozen=True)
class ImageFacts:
    """What the rules need to know of a set of training images."""

    images: int
    side: int
    """The side in pixels at which a typical image has its details: the median of the shorter sides of the files."""
    brightness_share: float
    """Share of the variance of brightness that lies between images, 0..1."""
    mirror_share: float
    """Share of images whose mirror image has its neighbours farther away than the image itself; 0.5 is symmetric."""


@dataclass(frozen=True)
class Choice:
    """A setting, by the name of its flag, and why."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"--{self.name} {typed(self.value)}: {self.reason}"


def network_choices(
    facts: ImageFacts, stated: Mapping[str, Any] = MappingProxyType({})
) -> list[Choice]:
    """What does not depend on the length of the run: the network, its crops and its batches.

    stated: the settings that are not to be chosen, by name; others follow from them.
    """
    size, size_reason = image_size(facts.side)
    size = stated.get("image_size", size)
    shorter = min(height_width(size))
    arch = _architecture(facts.images, size, stated)
    is_vit = not is_compact(arch.value)
    contrastive = stated.get("objective") == "simclr"
    batch, batch_reason = batch_size(facts.images)
    few = f"{facts.images} images"
    sigma = tuple(round(value * shorter / PUBLISHED_SIDE, 3) for value in PUBLISHED_SIGMA)
    choices = [
        Choice("image_size", size, size_reason),
        arch,
        *(_sizes_of_vit(facts.images, size, stated) if is_vit else []),
        _standardise(facts),
        Choice("out_dim", prototypes(facts.images), f"a power of two near images / 16; {few}"),
        _koleo(stated),
        _contrast(stated),
        Choice("use_bn_in_head", True, "without it targets of short runs become uniform"),
        Choice(
            "blur_sigma", sigma, f"published for {PUBLISHED_SIDE} px, in proportion to {shorter} px"
        ),
        _flip(facts),
        _local_crops(contrastive),
        Choice("global_crops_scale", (0.7, 1.0), "objects fill small images"),
        Choice("local_crops_scale", (0.2, 0.5), "objects fill small images"),
        Choice("batch_size_per_gpu", batch, batch_reason),
        Choice("drop_path_rate", 0.0, "short runs of small networks do not overfit crops"),
    ]
    return choices


def run_choices(images: int, batch: int, epochs: int, why: str) -> list[Choice]:
    """What depends on the length of the run. batch: the global one. why: what the epochs follow from."""
    steps = epochs * max(1, images // batch)
    half_life = max(1, min(steps / 10, 173))
    momentum = round(0.5 ** (1 / half_life), 4)
    of_steps = f"{steps} steps"
    return [
        Choice("epochs", epochs, why),
        Choice(
            "lr",
            PEAK_RATE * LR_BATCH / max(batch, SMALL_BATCH),
            f"per {LR_BATCH} images, so {PEAK_RATE:g} for {SMALL_BATCH} or more: there are few steps",
        ),
        Choice("warmup_epochs", round(0.1 * epochs, 2), f"a tenth of {of_steps}"),
        Choice("freeze_last_layer", round(0.02 * epochs), f"a fiftieth of {of_steps}"),
        Choice("warmup_teacher_temp_epochs", 0, "short runs have no time for soft targets"),
        Choice("teacher_temp", 0.04, "sharp targets from the first step"),
        Choice("momentum_teacher", momentum, f"a half-life of {half_life:.0f} steps of {of_steps}"),
        Choice("weight_decay_end", 0.04, "short runs of small networks"),
        Choice("clip_grad", 0.3, "keeps the prototypes from outrunning the features"),
        Choice("knn_freq", max(1, epochs // PROBES), f"about {PROBES} probes in the run"),
        Choice("saveckp_freq", max(1, epochs // PROBES), "a checkpoint beside each probe"),
    ]


def image_size(side: int) -> tuple[int, str]:
    size = 32 if side < 64 else 64
    return size, f"the shorter sides of the images have a median of {side} px"


def fitting(
    stated_width: int | None, stated_heads: int | None, width: int, heads: int
) -> tuple[int, int]:
    """Width and heads that go together: what is stated, and near the chosen ones what is not."""
    if stated_heads is not None:
        heads = stated_heads
        width = -(-width // heads) * heads
    if stated_width is not None:
        width = stated_width
        if stated_heads is None:
            heads = max(count for count in range(1, heads + 1) if width % count == 0)
    return width, heads


def patch_size(*sides: int) -> int:
    """The largest power of two up to an eighth of an image's shorter side that tiles it and crops of half of it."""
    patch = 1
    while 2 * patch <= min(sides) // 8 and all(side // 2 % (2 * patch) == 0 for side in sides):
        patch *= 2
    return patch


def is_compact(arch: str) -> bool:
    return arch.startswith(("cct_", "compact:cct_"))


def compact_transformer(images: int, *sides: int) -> str:
    """The CCT whose tokens span the pixels that a patch would, each of its convolutions halving the image."""
    layers = 2 if images < 10_000 else 4 if images < 30_000 else 7
    convolutions = max(1, patch_size(*sides).bit_length() - 1)
    name = f"cct_{layers}_3x{convolutions}"
    return f"{name}_32" if set(sides) == {32} else f"compact:{name}"


def vit_size(images: int) -> tuple[int, int, int]:
    """Width, blocks and heads: the published size from 30,000 images on, smaller below."""
    if images < 10_000:
        return 64, 4, 4
    if images < 30_000:
        return 128, 6, 4
    return 192, 9, 12


def prototypes(images: int) -> int:
    """A power of two near images / 16, within 256 and 4096."""
    count = 256
    while count < 4096 and 2 * count <= images / 16 * 1.5:
        count *= 2
    return count


def batch_size(images: int) -> tuple[int, str]:
    """Small enough to leave many steps, large enough to compare images within a batch."""
    batch = 32 if images < 30_000 else 128
    while batch > 8 and images < 8 * batch:
        batch //= 2
    while batch > 2 and batch > images:
        batch //= 2
    return batch, f"leaves {images // batch} steps an epoch"


def epochs_without_limit(images: int, batch: int) -> tuple[int, str]:
    """Epochs of a run whose time nobody limits."""
    per_epoch = max(1, images // batch)
    epochs = min(MOST_EPOCHS, max(10, round(DEFAULT_STEPS / per_epoch)))
    return (
        epochs,
        f"about {DEFAULT_STEPS} steps, within 10 and {MOST_EPOCHS} epochs; --minutes sets a time",
    )


def epochs_within(minutes: float, seconds_per_step: float, per_epoch: int) -> tuple[int, str]:
    """The epochs that fit into so many minutes; at least one."""
    epochs = int(60 * minutes / (seconds_per_step * per_epoch))
    reason = f"{minutes:g} minutes at {seconds_per_step:.3g} s a step, measured, and {per_epoch} steps an epoch"
    if epochs < 1:
        reason += (
            f": one epoch takes {seconds_per_step * per_epoch / 60:.3g} minutes, more than that"
        )
    return max(1, epochs), reason


def _architecture(images: int, size: ImageSize, stated: Mapping[str, Any]) -> Choice:
    if "arch" in stated:
        return Choice("arch", stated["arch"], "stated")
    of_vit = [name for name in MEANS_VIT if name in stated]
    if of_vit:
        return Choice("arch", "vit", f"--{of_vit[0]} is a setting of it")
    arch = compact_transformer(images, *height_width(size))
    return Choice(
        "arch", arch, f"convolutions make its tokens, which small sets need; {images} images"
    )


def _sizes_of_vit(images: int, size: ImageSize, stated: Mapping[str, Any]) -> list[Choice]:
    patch = stated.get("patch_size", patch_size(*height_width(size)))
    width, layers, heads = vit_size(images)
    width, heads = fitting(stated.get("embed_dim"), stated.get("num_heads"), width, heads)
    few = f"{images} images"
    return [
        Choice("patch_size", patch, f"about an eighth of {in_words(size)} px, a power of two"),
        Choice("embed_dim", width, few),
        Choice("num_layers", layers, few),
        Choice("num_heads", heads, few),
        _stem(patch),
        Choice("pool", "mean", "patches learn sooner than the class token of a small transformer"),
    ]


def _standardise(facts: ImageFacts) -> Choice:
    share = facts.brightness_share
    measured = f"{share:.0%} of the variance of brightness lies between images, "
    if share >= SHORTCUT:
        return Choice("standardise", True, measured + "so that it would tell them apart by itself")
    return Choice("standardise", False, measured + "too little to be a shortcut")


def _flip(facts: ImageFacts) -> Choice:
    share = facts.mirror_share
    measured = (
        f"{share:.0%} of the mirrored images are farther from the others than the images themselves"
    )
    if share >= ASYMMETRIC:
        return Choice("crop_flip", 0.0, f"{measured}: mirrored, these are something else")
    return Choice(
        "crop_flip", 0.5, f"{measured}: not enough to say that mirroring changes what they are"
    )


def _koleo(stated: Mapping[str, Any]) -> Choice:
    reason = "without it the features of small sets lie in a few directions"
    return _beside_dino("koleo_weight", KOLEO_WEIGHT, reason, stated)


def _contrast(stated: Mapping[str, Any]) -> Choice:
    reason = "it tells images apart from the first step on, which prototypes learn late"
    return _beside_dino("contrast_weight", CONTRAST_WEIGHT, reason, stated)


def _beside_dino(name: str, weight: float, reason: str, stated: Mapping[str, Any]) -> Choice:
    """A term that compares the images of a batch."""
    if stated.get("objective", "dino") != "dino":
        return Choice(name, 0.0, "tried with dino alone")
    if stated.get("batch_size_per_gpu", 2) < 2:
        return Choice(name, 0.0, "a batch of one image has no neighbours")
    return Choice(name, weight, reason)


def _stem(patch: int) -> Choice:
    if patch & (patch - 1):
        return Choice(
            "stem", "patch", f"convolutions halve images, and {patch} px are no power of two"
        )
    return Choice("stem", "conv", "small sets do not teach a linear stem what edges are")


def _local_crops(contrastive: bool) -> Choice:
    if contrastive:
        return Choice("local_crops_number", 0, "simclr compares the two global crops")
    return Choice("local_crops_number", 2, "each costs a quarter of a global crop")
