"""Distillation of logits: Hinton et al. 2015, arXiv 1503.02531; decoupled: Zhao et al. 2022, arXiv 2203.08679.

Logits may be standardised first: Sun et al. 2024, arXiv 2403.01427. All arithmetic is in float32.
"""

from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..config.teaching import Teaching

EPSILON = 1e-7  # added to every standard deviation, as published


class LogitDistillation(nn.Module):
    """A term beside the cross-entropy, which the published recipes weigh by 0.5 (of CNN pairs: 0.1).

    The defaults are those of Sun et al. but for `floor`, see `standardise`. `weight` was 10 for DeiT, 9 for the rest
    and 1 for plain soft distillation; `kind` decoupled takes alpha 1 and beta 8, as is usual for CIFAR-100.
    """

    def __init__(
        self,
        kind: Literal["soft", "hard", "decoupled"] = "soft",
        *,
        temperature: float = 2.0,
        weight: float = 9.0,
        standardised: bool = True,
        floor: float = 0.1,
        alpha: float = 1.0,
        beta: float = 8.0,
    ) -> None:
        super().__init__()
        if kind not in ("soft", "hard", "decoupled"):
            raise ValueError(
                f"no logit distillation is called {kind!r}; take soft, hard or decoupled"
            )
        if temperature <= 0:
            raise ValueError(f"the temperature is {temperature:g}; it must be above 0")
        self.kind, self.temperature, self.weight = kind, temperature, weight
        self.standardised, self.floor = standardised, floor
        self.alpha, self.beta = alpha, beta

    @classmethod
    def from_recipe(cls, recipe: Teaching) -> "LogitDistillation | None":
        """The term that the flags ask for; None where they ask for none."""
        if recipe.distillation == "none":
            return None
        return cls(
            recipe.distillation,
            temperature=recipe.kd_temperature,
            weight=recipe.kd_weight,
            standardised=recipe.kd_standardise,
            floor=recipe.kd_floor,
        )

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of both and, for decoupled, labels (B,) -> nats, times the weight."""
        check_classes(student, teacher)
        student, teacher = student.float(), teacher.detach().float()
        if self.standardised:
            student = standardise(student, self.floor)
            teacher = standardise(teacher, self.floor)
        return self.weight * self.loss(student, teacher, labels)

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The unweighted loss of logits that are already standardised where they should be."""
        if self.kind == "hard":
            return hard(student, teacher)
        if self.kind == "soft":
            return soft(student, teacher, self.temperature)
        if labels is None:
            raise ValueError("decoupled distillation needs one label per image: turn mixing off")
        return decoupled(student, teacher, labels, self.temperature, self.alpha, self.beta)


def standardise(logits: Tensor, floor: float = 0.1) -> Tensor:
    """Each row of (B, classes) minus its mean, over its unbiased standard deviation or `floor` if that is larger.

    Exactly as published where a row's deviation is above the floor. Below it the published form (floor=0) multiplies
    gradients by up to 1 / 1e-7: a student with a head of zeros starts there, and its first gradients of 1e4 and more
    stay in Adam's second moments for thousands of steps. A floor of 0.1, a fraction of what any trained network has,
    bounds the factor by 10. Two classes are always +-0.71, without a gradient; four leave little to learn.
    """
    if logits.shape[-1] < 2:
        raise ValueError(
            "logits of one class cannot be standardised: distillation needs at least two, better more"
        )
    deviation = logits.std(-1, keepdim=True).clamp_min(floor)
    return (logits - logits.mean(-1, keepdim=True)) / (deviation + EPSILON)


def soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T) in nats, the mean over images; logits (B, classes).

    The code of Li et al. 2022 (arXiv 2207.10026) divides this by the number of classes as well.
    """
    log_p = (teacher / temperature).log_softmax(-1)
    log_q = (student / temperature).log_softmax(-1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy in nats with the teacher's most likely class as the label; logits (B, classes)."""
    return F.cross_entropy(student, teacher.argmax(-1))


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T^2 (alpha KL of label against rest + beta KL among the rest) in nats; logits (B, classes), labels (B,)."""
    label, rest = split_by_label(student / temperature, labels)
    teacher_label, teacher_rest = split_by_label(teacher / temperature, labels)
    label_divergence = soft(label, teacher_label, 1.0)
    rest_divergence = soft(rest, teacher_rest, 1.0)
    return temperature**2 * (alpha * label_divergence + beta * rest_divergence)


def split_by_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, classes) -> of label and of all the rest together (B, 2), and of each of the rest (B, classes - 1)."""
    label = labels[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= label)  # steps over the label
    rest = logits.gather(1, others)
    together = rest.logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, label), together], dim=1), rest


def check_classes(student: Tensor, teacher: Tensor) -> None:
    """ValueError unless both tell the same number of classes apart."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's logits are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)} (images, classes): "
            "distillation needs a teacher of the same classes"
        )
