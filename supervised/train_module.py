"""What the loop calls in a step of stage two: the classifier and, where it is guided, the loss of its maps.

Both inside one module, so that DistributedDataParallel sees every parameter that a loss depends on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn as nn
from torch import Tensor

from .classifier import Classifier, mean_logits
from .guidance import Guidance


class StudentOutput(NamedTuple):
    """What the student makes of a batch."""

    logits: Tensor  # (B, classes), for the cross-entropy
    distilled: Tensor  # (B, classes), for distillation: of the distillation token where there is one, else the same
    guidance: Tensor | None  # the loss of its maps, unweighted; None where it is not guided


class TrainModule(nn.Module):
    """Images (B, C, h, w), and the teacher's maps where it is guided -> StudentOutput, by one pass of the backbone.

    names: of the student's maps, one for each of the teacher's. distils: whether logits are distilled. Without, a
    distillation token's head learns the labels as the other one does: every parameter gets a gradient.
    """

    def __init__(
        self,
        model: Classifier,
        guidance: Guidance | None = None,
        names: Sequence[str] = (),
        distils: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.guidance = model, guidance
        self.names, self.distils = tuple(names), distils

    def forward(
        self, images: Tensor, teacher_maps: Sequence[Tensor] | None = None
    ) -> StudentOutput:
        """images (B, C, h, w); teacher_maps: one (B, width, h, w) for each of `names`, needed where it is guided."""
        if self.guidance is None and not self.distils:
            logits = self.model(images)
            return StudentOutput(logits, logits, None)
        guided = self.guidance is not None
        logits, distilled, maps = self.model.forward_heads(images, with_maps=guided)
        if not self.distils:
            logits = distilled = mean_logits(logits, distilled)
        guidance_loss = None
        if self.guidance is not None:
            assert teacher_maps is not None
            student_maps = [maps[name] for name in self.names]
            guidance_loss = self.guidance(student_maps, teacher_maps)
        return StudentOutput(logits, distilled, guidance_loss)
