"""The teacher: a copy of the student that follows it by an exponential moving average (EMA)."""

from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


def teacher_of(student: M, drop_path: bool = False) -> M:
    """A frozen copy. Its batch norms see batches as the student's do; its dropout and drop path are off.

    drop_path=True leaves them on, as Gani et al. 2022 published it: the targets are then noisy.
    """
    teacher = deepcopy(student).requires_grad_(False)
    if drop_path:
        return teacher.train()
    teacher.eval()
    for module in teacher.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return teacher


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, all parameters at once; buffers stay the teacher's."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
