"""Stage two's loss: cross-entropy, guidance and distillation, weighed and added."""

from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from .distillation import LogitDistillation
from .mixing import Mixed
from .train_module import StudentOutput


@dataclass(frozen=True)
class Loss:
    """ce_weight * objective + guide_weight * guidance + distillation, which has its own weight.

    distillation: between the student's logits and the teacher's; None for none.
    """

    objective: nn.Module
    distillation: LogitDistillation | None = None
    ce_weight: float = 1.0
    guide_weight: float = 2.5

    def __call__(
        self, output: StudentOutput, mixed: Mixed, teacher_logits: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and its terms by name as they are added: ce, guidance, kd, in nats but guidance."""
        cross_entropy = self.objective(output.logits, mixed.labels, mixed.partners, mixed.share)
        total = self.ce_weight * cross_entropy
        terms = {"ce": total}
        if output.guidance is not None:
            terms["guidance"] = self.guide_weight * output.guidance
            total = total + terms["guidance"]
        if self.distillation is not None:
            # A mixed image has no one label.
            labels = mixed.labels if mixed.share == 1 else None
            terms["kd"] = self.distillation(output.distilled, teacher_logits, labels)
            total = total + terms["kd"]
        return total, terms
