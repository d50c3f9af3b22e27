"""Optimizers, their rates, and the per-parameter gradient cap."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor

from . import sharding

OPTIMIZERS = ("adamw", "sgd", "lars", "muon")
NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan's coefficients of the odd polynomial of degree five
NEWTON_SCHULZ_STEPS = 5


def build_optimizer(
    name: str, parameters: list[dict], momentum: float = 0.9, nesterov: bool = False
) -> torch.optim.Optimizer:
    """An optimizer whose rates are set at every step by `set_rates`; momentum and nesterov are SGD's.

    parameters: groups of them, on their device already.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.0, fused=True)
    if name == "sgd":
        # The fused one takes fp16's overflows without asking the GPU for them, and no shares
        tensors = [parameter for group in parameters for parameter in group["params"]]
        fused = any(each.is_cuda and not sharding.is_share(each) for each in tensors)
        return torch.optim.SGD(
            parameters,
            lr=0.0,
            momentum=momentum,
            nesterov=nesterov and momentum > 0,
            foreach=not fused,
            fused=fused,
        )
    if name == "lars":
        return LARS(parameters)
    if name == "muon":
        return Muon(parameters)
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
    norms = sharding.norms(grads)
    if cap > 0:
        scale_each_(sharding.local(grads), (cap / (norms + 1e-6)).clamp(max=1.0))
    return norms.norm()


def scale_each_(tensors: list[Tensor], factors: Tensor) -> None:
    """Multiply each tensor in place by its own of the factors (n,), numbers on the tensors' device."""
    if factors.is_cuda:
        spread_scale_(tensors, factors)
    else:
        torch._foreach_mul_(tensors, list(factors.unbind()))


def spread_scale_(tensors: list[Tensor], factors: Tensor) -> None:
    """The same in a few launches: lists go through one where shapes agree, and by numbers on a GPU one by one."""
    counts = tuple(tensor.numel() for tensor in tensors)
    repeats = _on_device(counts, factors.device)
    spread = factors.repeat_interleave(repeats, output_size=sum(counts)).split(counts)
    each = [part.view_as(tensor) for part, tensor in zip(spread, tensors, strict=True)]
    torch._foreach_mul_(tensors, each)


@lru_cache(maxsize=16)
def _on_device(counts: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(counts).to(device)


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

        # The scaler hands an overflow of fp16 over instead of reading it, which waits for the GPU
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Gradients are unscaled already (GradScaler.unscale_); a step that overflowed changes nothing."""
        overflow = getattr(self, "found_inf", None)
        for group in self.param_groups:
            taken = [p for p in group["params"] if p.grad is not None]
            if taken:
                self._move(taken, group, overflow)

    def _move(self, taken: list[Tensor], group: dict[str, Any], overflow: Tensor | None) -> None:
        """overflow: 1 or 0 on the device, None where that cannot be."""
        matrices = [p for p in taken if p.ndim != 1]
        taken = matrices + [p for p in taken if p.ndim == 1]
        updates = [cast(Tensor, p.grad) for p in taken]
        if overflow is not None:
            overflowed = overflow > 0
            updates = [update.masked_fill(overflowed, 0.0) for update in updates]
        if matrices:
            scaled = self._scaled(matrices, updates[: len(matrices)], group)
            updates = scaled + updates[len(matrices) :]
        momenta = [self._momentum_of(p) for p in taken]
        if overflow is None:
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(taken, momenta, alpha=-group["lr"])
        else:
            kept = 1 - overflow.to(momenta[0].dtype)
            torch._foreach_mul_(momenta, 1 - (1 - group["momentum"]) * kept)
            torch._foreach_add_(momenta, torch._foreach_mul(updates, kept))
            torch._foreach_add_(taken, torch._foreach_mul(momenta, -group["lr"] * kept))

    def _scaled(
        self, matrices: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        """Decayed gradients, each times its trust ratio."""
        updates = list(torch._foreach_add(grads, matrices, alpha=group["weight_decay"]))
        sizes, changes = sharding.norms(matrices), sharding.norms(updates)
        trust = torch.where(
            (sizes > 0) & (changes > 0), group["eta"] * sizes / changes, torch.ones_like(sizes)
        )
        scale_each_(sharding.local(updates), trust)
        return updates

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


class Muon(torch.optim.AdamW):
    """Matrices are moved by their orthogonalised momentum, all else by AdamW.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with Nesterov momentum 0.95 and steps as large as AdamW's,
    0.2 sqrt(max(rows, columns)) times the rate, after Liu et al. 2025 (arXiv 2502.16982), section 2.2, so that both
    take one learning rate. A convolution is a matrix of its output channels; tables of tokens and depthwise
    convolutions are not matrices. torch's and timm's Muon compute in bfloat16, which processors without it emulate: a
    step was ten times slower. This one computes in float32, matrices of one shape at once.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.0, momentum: float = 0.95):
        super().__init__(params, lr=lr, fused=True)
        # Fused AdamW skips overflows of fp16 by itself, and matrices would not: let the scaler skip the whole step
        self._step_supports_amp_scaling = False
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for matrices in _by_shape(group["params"]):
                self._move(matrices, group)
        return super().step(closure)  # of what still has a gradient

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape."""
        momenta = [self._momentum_of(matrix) for matrix in matrices]
        grads = [cast(Tensor, matrix.grad) for matrix in matrices]
        torch._foreach_lerp_(momenta, grads, 1 - self.momentum)
        torch._foreach_lerp_(grads, momenta, self.momentum)  # they are dropped below
        # Of shares each rank puts the matrices of a shape together, and takes its own part of their directions
        updates = [sharding.whole(grad).flatten(1) for grad in grads]
        directions = orthogonalise(torch.stack(updates))
        size = 0.2 * max(directions.shape[-2:]) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        shape = matrices[0].shape
        steps = [sharding.share(each.view(shape), matrices[0]) for each in directions]
        torch._foreach_add_(matrices, steps, alpha=-group["lr"] * size)
        for matrix in matrices:
            matrix.grad = None

    def _momentum_of(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
        return state["momentum"]


def _by_shape(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Those that are matrices and have a gradient, in lists of one shape."""
    lists: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None and parameter.ndim > 1 and min(parameter.shape[:2]) > 1:
            lists.setdefault(parameter.shape, []).append(parameter)
    return list(lists.values())


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) -> the same with all singular values near 1, by Newton and Schulz's iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
