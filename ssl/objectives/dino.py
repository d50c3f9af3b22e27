"""DINO: cross-entropy from centred, sharpened teacher views to student views.

Caron et al. 2021 (arXiv 2104.14294), eq. 3 and section 3.1.
V student views, the first G of them also seen by the teacher; B images, K prototypes.
"""

import torch
import torch.nn as nn
from torch import Tensor


class Objective(nn.Module):
    def __init__(self, prototypes: int, student_temp: float = 0.1, centre_momentum: float = 0.9):
        super().__init__()
        self.student_temp, self.centre_momentum = student_temp, centre_momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def targets(self, teacher: Tensor, teacher_temp: float) -> Tensor:
        """Teacher logits (G, B, K) -> probabilities."""
        return ((teacher.float() - self.centre) / teacher_temp).softmax(-1)

    def forward(self, student: Tensor, targets: Tensor) -> Tensor:
        """Student logits (V, B, K), target probabilities (G, B, K) -> nats per pair of different views.

        The sum over v != g of log q_v is the sum over all v less the view's own: one pass instead of G x V.
        """
        log_q = (student.float() / self.student_temp).log_softmax(-1)
        others = log_q.sum(0) - log_q[: len(targets)]
        pairs = len(targets) * (len(student) - 1)
        return -(targets * others).sum() / (pairs * student.shape[1])

    @torch.no_grad()
    def recentre(self, mean: Tensor) -> None:
        """Move the centre towards the mean teacher logit (K,) over views, images and ranks."""
        self.centre.lerp_(mean.float(), 1.0 - self.centre_momentum)
