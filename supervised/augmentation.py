"""Stage two's image transforms, batched on the device, from uint8 to normalised float.

Training, as published: flip, crop of the zero-padded image, AutoAugment, normalisation, random erasing. Evaluation:
normalisation only. Images of another side than the network's are resized first.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..augment import autoaugment, erasing, shift
from ..augment.draws import Draws


@dataclass(frozen=True)
class TrainDraws(Draws):
    """The random numbers of a batch of training images; None for what is turned off."""

    shifts: shift.Shifts
    operations: autoaugment.Operations | None
    boxes: torch.Tensor | None


class EvalTransform:
    """images (B, C, S, S) uint8 -> (B, C, size, size) float32, normalised."""

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        self.size = size
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.normalise(resize(images, self.size))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (value.to(images.device, non_blocking=True) for value in (self.mean, self.std))
        return (images / 255 - mean) / std


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
        self.fill = torch.tensor(fill)

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


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images (B, C, S, S) to (B, C, size, size): bilinear, antialiased, rounded."""
    if images.shape[2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
