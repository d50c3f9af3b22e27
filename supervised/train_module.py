"""What the loop calls in a step of stage two: the classifier and, where it is guided, the loss of its maps.

Both inside one module, so that DistributedDataParallel sees every parameter that a loss depends on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn as nn
from torch import Tensor

from .classifier import Classifier, joined
from .guidance import Guidance


class Answer(NamedTuple):
    """What the student says of a batch."""

    logits: Tensor  # (B, classes), for the cross-entropy
    distilled: Tensor  # (B, classes), for distillation: of the distillation token where there is one, else the same
    guidance: Tensor | None  # the loss of its maps, unweighted; None where it is not guided


class Learner(nn.Module):
    """Images (B, C, h, w), and the teacher's maps where there is guidance -> Answer, by one pass of the backbone.

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
        self.model, self.guidance, self.names, self.distils = model, guidance, tuple(names), distils

    def forward(self, images: Tensor, maps: Sequence[Tensor] | None = None) -> Answer:
        if self.guidance is None and not self.distils:
            logits = self.model(images)
            return Answer(logits, logits, None)
        own, distilled, found = self.model.outputs(images, maps=self.guidance is not None)
        if not self.distils:
            own = distilled = joined(own, distilled)
        loss = self.guidance([found[name] for name in self.names], maps) if self.guidance else None
        return Answer(own, distilled, loss)
