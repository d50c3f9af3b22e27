"""Locality guidance: Li et al. 2022, arXiv 2207.10026: the feature maps of a small CNN guide a transformer's.

A term to be added to the cross-entropy, times 2.5 as published. Each pair of maps is brought to the larger of both
sizes on either axis; the loss of a pair is the mean squared difference, and the pairs' losses are added. All of it but
the projections is in float32.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair


class Guidance(nn.Module):
    """The loss of pairs of maps, by what is compared of them:

    - linear: the student's map after a learned 1 x 1 convolution, which is trained and decayed with the student;
    - attention: where in an image the features are strong (Zagoruyko and Komodakis 2017, arXiv 1612.03928);
    - similarity: which images of the batch have similar features (Tung and Mori 2019, arXiv 1907.09682).
    """

    def __init__(
        self,
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        transform: Literal["linear", "attention", "similarity"] = "linear",
    ) -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(f"no guidance is called {transform!r}; take {', '.join(TRANSFORMS)}")
        check_pairs(student_widths, teacher_widths)
        self.projections = nn.ModuleList()
        if transform == "linear":
            for student_width, teacher_width in zip(student_widths, teacher_widths, strict=True):
                self.projections.append(nn.Conv2d(student_width, teacher_width, 1))
        self.transform = TRANSFORMS[transform]

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps (B, width, h, w) of both, in pairs -> the sum of the pairs' losses."""
        total, *others = self.pair_losses(student, teacher)
        for loss in others:
            total = total + loss
        return total

    def pair_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """The loss of each pair of maps; gradients reach the student and the projections only."""
        check_pairs(student, teacher)
        losses = []
        for pair, (student_map, teacher_map) in enumerate(zip(student, teacher, strict=True)):
            if self.projections:
                student_map = self.projections[pair](student_map)
            losses.append(self.pair_loss(student_map, teacher_map.detach()))
        return losses

    def pair_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair of maps, the student's already projected."""
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = match_sizes(student.float(), teacher.float())
            return F.mse_loss(self.transform(student), self.transform(teacher))


def teacher_images(images: Tensor, size: int | tuple[int, int] = 32) -> Tensor:
    """The student's augmented images (B, C, h, w) at the CNN's size, reduced without a filter as published."""
    return resize_maps(images, _pair(size))


def match_sizes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, width, h, w), both brought to the larger height and the larger width of the two."""
    size = max(first.shape[2], second.shape[2]), max(first.shape[3], second.shape[3])
    return resize_maps(first, size), resize_maps(second, size)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of (B, C, h, w), without a filter; the maps themselves if they have the size."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def identity(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as they are: all of their features are compared."""
    return maps


def attention(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> the mean square of each place's features (B, h * w), of length 1 for each image."""
    return F.normalize(maps.square().mean(1).flatten(1))


def similarity(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> every image's products with all of the batch (B, B), of length 1 for each image."""
    flat = maps.flatten(1)
    return F.normalize(flat @ flat.T)


TRANSFORMS = {"linear": identity, "attention": attention, "similarity": similarity}


def check_pairs(student: Sequence, teacher: Sequence) -> None:
    """ValueError unless every map of the student has one of the teacher beside it."""
    if len(student) != len(teacher) or not student:
        raise ValueError(
            f"{len(student)} maps of the student and {len(teacher)} of the teacher do not make pairs"
        )
