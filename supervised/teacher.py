"""The teacher of guidance and distillation: a frozen network that sees the student's images at its own size."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..augment.device import channels
from .backbone import Backbone
from .classifier import Classifier, mean_logits
from .guidance import teacher_images

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, in units of 0..1."""


class TeacherOutput(NamedTuple):
    """What the teacher makes of a batch; no gradients."""

    logits: Tensor | None  # (B, classes); None of a backbone without classifier
    maps: list[Tensor]  # (B, width, h, w) each, in the order of the names asked for


class Teacher(nn.Module):
    """The student's normalised images (B, C, h, w) -> TeacherOutput, by a Classifier or a bare backbone.

    size: side in px, or height and width, at which it sees them, resampled as published. names: of the maps that it
    gives. batch_norm: "running" takes the statistics of its training, and nothing ever changes; "batch", as published,
    takes those of each batch, so that what it says of an image depends on the others, and the running ones drift
    unused. train() of a module around it changes nothing. normalisations: of the student's images, and of those that
    the teacher learned on.
    """

    def __init__(
        self,
        network: Classifier | nn.Module,
        size: int | tuple[int, int],
        names: Sequence[str] = (),
        batch_norm: Literal["running", "batch"] = "running",
        normalisations: tuple[Normalisation, Normalisation] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.size, self.names, self.batch_norm = size, tuple(names), batch_norm
        self.factor_and_offset: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if normalisations:
            self.factor_and_offset = renormalisation(*normalisations)
        self.train()

    @property
    def backbone(self) -> Backbone:
        """The network whose maps `names` are of."""
        if isinstance(self.network, Classifier):
            return self.network.backbone
        return cast(Backbone, self.network)

    def train(self, mode: bool = True) -> "Teacher":
        """Evaluation mode whatever is asked for; batch norms that take a batch's statistics are in training mode."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.training = self.batch_norm == "batch"
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """The student's images (B, C, h, w) of a batch, as they were augmented and mixed."""
        images = teacher_images(images, self.size)
        if self.factor_and_offset is not None:
            factor, offset = self.factor_and_offset
            images = images * channels(factor, images.device) + channels(offset, images.device)
        logits: Tensor | None = None
        if isinstance(self.network, Classifier):
            with_maps = bool(self.names)
            own_logits, distilled, maps = self.network.forward_heads(images, with_maps)
            logits = mean_logits(own_logits, distilled)
        else:
            _, maps = self.backbone.forward_maps(images)
        return TeacherOutput(logits, [maps[name] for name in self.names])


def renormalisation(
    student: Normalisation, teacher: Normalisation
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Factor and offset of each channel from the student's normalisation to the teacher's; None where they agree."""
    (means, stds), (teacher_means, teacher_stds) = student, teacher
    if [*means, *stds] == [*teacher_means, *teacher_stds]:
        return None
    factors, offsets = [], []
    for mean, std, teacher_mean, teacher_std in zip(
        means, stds, teacher_means, teacher_stds, strict=True
    ):
        factors.append(std / teacher_std)
        offsets.append((mean - teacher_mean) / teacher_std)
    return tuple(factors), tuple(offsets)
