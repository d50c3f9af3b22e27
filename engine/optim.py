"""Optimizers, their rates, and the per-parameter gradient cap."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

OPTIMIZERS = ("adamw", "sgd", "lars")


def build_optimizer(
    name: str, parameters: list[dict], momentum: float = 0.9, nesterov: bool = False
) -> torch.optim.Optimizer:
    """An optimizer whose rates are set at every step by `set_rates`; momentum and nesterov are SGD's."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, fused=True)
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=0.0, momentum=momentum, nesterov=nesterov and momentum > 0, foreach=True
        )
    if name == "lars":
        return LARS(parameters)
    raise ValueError(f"--optimizer {name!r} is unknown; known: {', '.join(OPTIMIZERS)}")


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the learning rate of all groups, times a group's own lr_scale, and the decay of those that decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


@torch.no_grad()
def clip_per_parameter(parameters: Iterable[nn.Parameter], cap: float) -> Tensor:
    """Scale each gradient by min(1, cap / (norm + 1e-6)), parameter by parameter; cap 0 only measures.

    Returns the norm of all gradients before the cap, a scalar tensor.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(grads)
    if cap > 0:
        factors = (cap / (torch.stack(norms) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(factors.unbind()))
    return torch.stack(norms).norm()


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), momentum 0.9, trust coefficient 1e-3.

    Vectors (biases, norms) take a plain momentum step without decay or scaling.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 1e-3,
    ):
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, p: nn.Parameter, update: Tensor, group: dict[str, Any]) -> None:
        if p.ndim != 1:
            update = update.add(p, alpha=group["weight_decay"])
            size, change = p.norm(), update.norm()
            trust = torch.where(
                (size > 0) & (change > 0), group["eta"] * size / change, torch.ones_like(size)
            )
            update = update * trust
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        buffer = state["momentum"]
        buffer.mul_(group["momentum"]).add_(update)
        p.add_(buffer, alpha=-group["lr"])
