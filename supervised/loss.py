"""Stage two's loss: cross-entropy, guidance and distillation, weighed and added."""

from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from .distillation import LogitDistillation
from .mixing import Mixed
from .train_module import Answer


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
        self, answer: Answer, mixed: Mixed, teacher_logits: Tensor | None = None
    ) -> tuple[Tensor, dict]:
        """The sum, and its parts by name as they are added: ce, guidance, kd, in nats but guidance."""
        parts = {
            "ce": self.ce_weight
            * self.objective(answer.logits, mixed.labels, mixed.partners, mixed.share)
        }
        if answer.guidance is not None:
            parts["guidance"] = self.guide_weight * answer.guidance
        if self.distillation is not None:
            labels = mixed.labels if mixed.share == 1 else None
            parts["kd"] = self.distillation(answer.distilled, teacher_logits, labels)
        return sum(parts.values()), parts
