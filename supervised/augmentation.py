"""Stage two's transform of training images, batched on the device, from uint8 to normalised float.

As published for two stages: flip, crop of the zero-padded image, AutoAugment, normalisation, random erasing. Images of
another side than the network's are resized first. As published elsewhere (DHVT, LocalViT, compact transformers,
locality guidance): random resized crop and flip, RandAugment, normalisation, random erasing with noise.
"""

from dataclasses import dataclass

import torch

from ..augment import autoaugment, crop, erasing, jitter, randaugment, shift
from ..augment.draws import Draws
from ..augment.evaluation import EvalTransform, resize_bilinear
from ..augment.operations import Operations


@dataclass(frozen=True)
class TrainDraws(Draws):
    """The random numbers of a batch of training images; None for what is turned off."""

    shifts: shift.Shifts | None
    operations: Operations | None
    boxes: torch.Tensor | None
    crops: crop.CropBoxes | None = None
    jitters: jitter.Jitter | None = None
    noise: torch.Tensor | None = None


class TrainTransform(EvalTransform):
    """images (B, C, S, S) uint8 and their draws -> (B, C, size, size) float32.

    flip: its probability. cut: random resized crops (with their own flips) in place of shifts by `padding`. policy:
    AutoAugment's, or a RandAugment in timm's notation ("rand-m9-mstd0.5-inc1"), or None. color_jitter: the strength of
    random brightness, contrast and saturation. fill: what erased boxes hold after normalisation, a number or one per
    channel; 0 is the mean colour, the published recipe fills with `mean` itself; None is normal noise in each pixel.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        flip: float = 0.5,
        padding: int = 4,
        cut: crop.RandomResizedCrop | None = None,
        policy: str | None = "cifar10",
        color_jitter: float = 0.0,
        erase: erasing.Erasing | None = erasing.Erasing(),  # noqa: B008, it is frozen
        fill: float | tuple[float, ...] | None = 0.0,
    ):
        super().__init__(size, mean, std)
        self.flip, self.padding, self.cut = flip, padding, cut
        self.policy = read_policy(policy, mean) if policy else None
        self.color_jitter, self.erase, self.fill = color_jitter, erase, fill

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        source: tuple[int, int] | torch.Size | None = None,
    ) -> TrainDraws:
        """The random numbers of the global batch, on the CPU. source: height, width of the images, `size` if None."""
        cut = (
            self.cut.draw(batch, *(source or (self.size, self.size)), generator)
            if self.cut
            else None
        )
        shifts = None if self.cut else shift.draw(batch, self.padding, self.flip, generator)
        operations = self.policy.draw(batch, generator) if self.policy else None
        boxes = self.erase.draw(batch, self.size, self.size, generator) if self.erase else None
        jitters = jitter.draw(batch, self.color_jitter, generator) if self.color_jitter else None
        noise = erasing.draw_seeds(batch, generator) if self.erase and self.fill is None else None
        return TrainDraws(shifts, operations, boxes, cut, jitters, noise)

    def __call__(self, images: torch.Tensor, draws: TrainDraws) -> torch.Tensor:
        images = self.cropped(images, draws)
        if draws.jitters is not None:
            images = jitter.apply(images, draws.jitters)
        if draws.operations is not None:
            images = self.policy(images, draws.operations)
        return self.erased(self.normalise(images), draws)

    def cropped(self, images: torch.Tensor, draws: TrainDraws) -> torch.Tensor:
        """uint8 (B, C, size, size): where each image was cut, and whether flipped."""
        if draws.crops is not None:
            return crop.apply(images, draws.crops, self.size)
        return shift.apply(resize_bilinear(images, self.size), draws.shifts, self.padding)

    def erased(self, images: torch.Tensor, draws: TrainDraws) -> torch.Tensor:
        if draws.boxes is None:
            return images
        if draws.noise is None:
            return erasing.apply(images, draws.boxes, self.fill)
        return erasing.apply_noise(images, draws.boxes, draws.noise)


def read_policy(
    policy: str, mean: tuple[float, ...] = (0.5,)
) -> autoaugment.AutoAugment | randaugment.RandAugment:
    """AutoAugment's policy, or RandAugment, which shows `mean` (0..1) where no image is. ValueError for others."""
    if policy.startswith("rand"):
        return randaugment.read(policy, tuple(min(255, round(255 * value)) for value in mean))
    return autoaugment.AutoAugment(policy)
