"""Stage two's transform of training images, batched on the device, from uint8 to normalised float.

As published for two stages: flip, crop of the zero-padded image, AutoAugment, normalisation, random erasing. Images of
another side than the network's are resized first. As published elsewhere (DHVT, LocalViT, compact transformers,
locality guidance): random resized crop and flip, RandAugment, normalisation, random erasing with noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.modules.utils import _pair

from ..augment import autoaugment, crop, erasing, jitter, randaugment, shift
from ..augment.changes import Change, in_turn
from ..augment.device import exact_products
from ..augment.draws import Draws
from ..augment.evaluation import EvalTransform, Resample, resize
from ..augment.operations import Operations
from ..config.augmentation import Augmentation

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation
OWN_POLICIES = {"svhn": "svhn", "tiny_imagenet": "imagenet", "cinic10": "imagenet"}

Policy = autoaugment.AutoAugment | randaugment.RandAugment


@dataclass(frozen=True)
class TrainDraws(Draws):
    """The random numbers of a batch of training images; None for what is turned off."""

    shifts: shift.Shifts | None
    operations: Operations | None
    boxes: torch.Tensor | None
    crops: crop.CropBoxes | None = None
    jitters: jitter.Jitter | None = None
    noise: torch.Tensor | None = None


class TrainTransform:
    """images (B, C, H, W) uint8 and their draws -> (B, C, height, width) float32, of `size`: a side or both in px.

    flip: its probability. cut: random resized crops (with their own flips) in place of shifts by `padding`. edge: the
    border that shifts bring in is the image's own and not black. policy: AutoAugment's, or a RandAugment in timm's
    notation ("rand-m9-mstd0.5-inc1"), or None. color_jitter: the strength of
    random brightness, contrast and saturation. fill: what erased boxes hold after normalisation, a number or one per
    channel; 0 is the mean colour, the published recipe fills with `mean` itself; None is normal noise in each pixel.
    resample: how images of another size are brought to this one before they are shifted.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        flip: float = 0.5,
        padding: int = 4,
        edge: bool = False,
        cut: crop.RandomResizedCrop | None = None,
        policy: str | None = "cifar10",
        color_jitter: float = 0.0,
        erase: erasing.Erasing | None = erasing.Erasing(),  # noqa: B008, it is frozen
        fill: float | tuple[float, ...] | None = 0.0,
        resample: Resample = "bicubic",
    ) -> None:
        self.height, self.width = _pair(size)
        self.mean, self.std = mean, std
        self.flip, self.padding, self.edge, self.cut = flip, padding, edge, cut
        self.policy: Policy | None = None
        if policy:
            self.policy = read_policy(policy, mean)
        self.color_jitter, self.erase, self.fill = color_jitter, erase, fill
        self.resample: Resample = resample
        self.normalise = EvalTransform(size, mean, std).normalise

    @classmethod
    def from_recipe(
        cls,
        recipe: Augmentation,
        dataset: str,
        size: int | tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "TrainTransform":
        """The transform of training images of an entry of datasets/."""
        flip = flip_probability(recipe, dataset)
        cut, erase = None, None
        if recipe.crop_scale:
            height, width = _pair(size)
            low, high = recipe.crop_ratio
            ratio = (low * width / height, high * width / height)
            cut = crop.RandomResizedCrop(recipe.crop_scale, ratio, flip)
        if recipe.re:
            erase = erasing.Erasing(
                recipe.re, recipe.re_sh, recipe.re_r1, log_aspect=recipe.re_aspect == "log"
            )
        fill: float | tuple[float, ...] | None = 0.0
        if recipe.re_mode == "pixel":
            fill = None
        elif recipe.re_fill == "published":
            fill = mean
        return cls(
            size,
            mean,
            std,
            flip=flip,
            padding=recipe.padding,
            edge=recipe.padding_fill == "edge",
            cut=cut,
            policy=policy_name(recipe, dataset),
            color_jitter=0.0 if recipe.aa else recipe.color_jitter,
            erase=erase,
            fill=fill,
            resample=recipe.resample,
        )

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        source: tuple[int, int] | torch.Size | None = None,
    ) -> TrainDraws:
        """The random numbers of the global batch, on the CPU. source: height, width of the images, `size` if None."""
        shifts = crops = operations = boxes = jitters = noise = None
        if self.cut is None:
            shifts = shift.draw(batch, self.padding, self.flip, generator)
        else:
            height, width = source or (self.height, self.width)
            crops = self.cut.draw(batch, height, width, generator)
        if self.policy is not None:
            operations = self.policy.draw(batch, generator)
        if self.erase is not None:
            boxes = self.erase.draw(batch, self.height, self.width, generator)
        if self.color_jitter:
            jitters = jitter.draw(batch, self.color_jitter, generator)
        if self.erase is not None and self.fill is None:
            noise = erasing.draw_seeds(batch, generator)
        return TrainDraws(shifts, operations, boxes, crops, jitters, noise)

    @exact_products()
    def __call__(self, images: torch.Tensor, draws: TrainDraws) -> torch.Tensor:
        """Images on any device; their draws on the CPU, cut to these images where they are a part of the batch.

        What is drawn goes to the device at once.
        """
        height, width = images.shape[2:]
        return in_turn(images, self._changes(draws, (height, width)))

    def _changes(self, draws: TrainDraws, source: tuple[int, int]) -> Iterator[Change]:
        """What happens to uint8 images of this height and width in px, one after the other."""
        size = self.height, self.width
        if draws.crops is not None:
            yield crop.change(draws.crops, source, size)
        else:
            assert draws.shifts is not None
            yield Change((), partial(resize, size=size, resample=self.resample))
            yield shift.change(draws.shifts, self.padding, self.edge)
        if draws.jitters is not None:
            yield jitter.change(draws.jitters)
        if draws.operations is not None:
            assert self.policy is not None
            yield self.policy.change(draws.operations, size)
        yield Change((), self.normalise)
        if draws.noise is not None and draws.boxes is not None:
            yield erasing.noise_change(draws.boxes, draws.noise)
        elif draws.boxes is not None:
            assert self.fill is not None
            yield erasing.change(draws.boxes, self.fill)


def read_policy(policy: str, mean: tuple[float, ...] = (0.5,)) -> Policy:
    """AutoAugment's policy, or RandAugment, which shows `mean` (0..1) where no image is. ValueError for others."""
    if not policy.startswith("rand"):
        return autoaugment.AutoAugment(policy)
    colour = tuple(min(255, round(255 * value)) for value in mean)
    return randaugment.read(policy, colour)


def check_policy(recipe: Augmentation) -> None:
    """ValueError unless --aa_policy names a policy or is a RandAugment in timm's notation."""
    policy = recipe.aa_policy
    if policy.startswith("rand"):
        read_policy(policy)
    elif policy not in ("auto", *autoaugment.POLICIES):
        names = ", ".join(("auto", *autoaugment.POLICIES))
        raise ValueError(f"--aa_policy {policy}: take {names} or a RandAugment")


def policy_name(recipe: Augmentation, dataset: str) -> str | None:
    """The AutoAugment policy or the RandAugment for an entry of datasets/; None where it is off."""
    if not recipe.aa:
        return None
    if recipe.aa_policy != "auto":
        return recipe.aa_policy
    return OWN_POLICIES.get(dataset, "cifar10")


def flip_probability(recipe: Augmentation, dataset: str) -> float:
    """The probability of a flip for an entry of datasets/: mirrored digits are no digits."""
    if recipe.flip is not None:
        return recipe.flip
    return 0.0 if dataset == "svhn" else 0.5


def colours(
    recipe: Augmentation, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised by, of a data set that has these."""
    if recipe.normalise == "imagenet" and len(mean) == 3:
        return IMAGENET
    return mean, std
