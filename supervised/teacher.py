"""The teacher of guidance and distillation: a frozen network that sees the student's images at its own size."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .classifier import Classifier, joined
from .guidance import teacher_images

Colours = tuple[
    Sequence[float], Sequence[float]
]  # mean and deviation of each channel, in units of 0..1


class Taught(NamedTuple):
    """What the teacher says of a batch; no gradients."""

    logits: Tensor | None  # (B, classes); None of a backbone without classifier
    maps: list[Tensor]  # (B, width, h, w) each, in the order of the names asked for


class Teacher(nn.Module):
    """The student's normalised images (B, C, h, w) -> Taught, by a Classifier or a bare backbone.

    size: side in px at which it sees them, resampled as published. names: of the maps that it gives. batch_norm:
    "running" takes the statistics of its training, and nothing ever changes; "batch", as published, takes those of each
    batch, so that what it says of an image depends on the others, and the running ones drift unused. train() of a
    module around it changes nothing. colours: how the student's images and the teacher's own were normalised.
    """

    def __init__(
        self,
        network: Classifier | nn.Module,
        size: int,
        names: Sequence[str] = (),
        batch_norm: Literal["running", "batch"] = "running",
        colours: tuple[Colours, Colours] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.size, self.names, self.batch_norm = (
            network.requires_grad_(False),
            size,
            tuple(names),
            batch_norm,
        )
        self.recolouring = recolouring(*colours) if colours else None
        self.train()

    @property
    def backbone(self) -> nn.Module:
        """Whose maps are named."""
        return self.network.backbone if isinstance(self.network, Classifier) else self.network

    def train(self, mode: bool = True) -> "Teacher":
        super().train(False)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.training = self.batch_norm == "batch"
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Taught:
        images = teacher_images(images, self.size)
        if self.recolouring:
            factor, offset = (
                images.new_tensor(values).view(-1, 1, 1) for values in self.recolouring
            )
            images = images * factor + offset
        logits, maps = self._answer(images)
        return Taught(logits, [maps[name] for name in self.names])

    def _answer(self, images: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        if isinstance(self.network, Classifier):
            own, distilled, maps = self.network.outputs(images, maps=bool(self.names))
            return joined(own, distilled), maps
        return None, self.network.forward_maps(images)[1]


def recolouring(student: Colours, teacher: Colours) -> Colours | None:
    """Factor and offset of each channel from the student's normalisation to the teacher's; None where they agree."""
    (mean, std), (other_mean, other_std) = student, teacher
    if (*mean, *std) == (*other_mean, *other_std):
        return None
    factor = [own / other for own, other in zip(std, other_std, strict=True)]
    offset = [
        (own - other) / by for own, other, by in zip(mean, other_mean, other_std, strict=True)
    ]
    return factor, offset
