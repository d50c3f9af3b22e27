"""Stage two's transform of training images, batched on the device, from uint8 to normalised float.

As published: flip, crop of the zero-padded image, AutoAugment, normalisation, random erasing. Images of another side
than the network's are resized first.
"""

from dataclasses import dataclass

import torch

from ..augment import autoaugment, erasing, shift
from ..augment.draws import Draws
from ..augment.evaluation import EvalTransform, resize


@dataclass(frozen=True)
class TrainDraws(Draws):
    """The random numbers of a batch of training images; None for what is turned off."""

    shifts: shift.Shifts
    operations: autoaugment.Operations | None
    boxes: torch.Tensor | None


class TrainTransform(EvalTransform):
    """images (B, C, S, S) uint8 and their draws -> (B, C, size, size) float32.

    flip: its probability. policy: AutoAugment's, None for none. fill: what erased boxes hold after normalisation, a
    number or one per channel; 0 is the mean colour, the published recipe fills with `mean` itself.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        flip: float = 0.5,
        padding: int = 4,
        policy: str | None = "cifar10",
        erase: erasing.Erasing | None = erasing.Erasing(),  # noqa: B008, it is frozen
        fill: float | tuple[float, ...] = 0.0,
    ):
        super().__init__(size, mean, std)
        self.flip, self.padding, self.erase = flip, padding, erase
        self.policy = autoaugment.AutoAugment(policy) if policy else None
        self.fill = fill

    def draw(self, batch: int, generator: torch.Generator) -> TrainDraws:
        """The random numbers of the global batch, on the CPU."""
        shifts = shift.draw(batch, self.padding, self.flip, generator)
        operations = self.policy.draw(batch, generator) if self.policy else None
        boxes = self.erase.draw(batch, self.size, self.size, generator) if self.erase else None
        return TrainDraws(shifts, operations, boxes)

    def __call__(self, images: torch.Tensor, draws: TrainDraws) -> torch.Tensor:
        images = shift.apply(resize(images, self.size), draws.shifts, self.padding)
        if draws.operations is not None:
            images = autoaugment.apply(images, draws.operations)
        images = self.normalise(images)
        return images if draws.boxes is None else erasing.apply(images, draws.boxes, self.fill)
