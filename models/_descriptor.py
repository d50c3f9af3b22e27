"""A token as a small linear dynamical system (LDS), and the descriptor of its subspace.

Konstantinidis et al. 2023 (IEEE Access, arXiv 2207.08569), as its code computes it. Here the signs of the singular
vectors, which are arbitrary there, are fixed: the largest entry of each left singular vector is positive. With
published_signs they are the solver's, as there: another library, type or device may give others.

On a GPU torch waits after each singular value decomposition, two in a descriptor, to hear whether it converged.
Eigenvectors of the small Gram matrix would wait as well (torch.linalg.eigh asks too, and neither has a form that does
not), and squaring loses the vectors of small singular values: the decomposition stays.
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ._manifolds import at_least_float32
from ._maps import Grid, map_grid, to_tokens

CLOSE = 1e-10  # squared gap of two squared singular values, relative to the largest, that damps their vectors' gradient


def exact_tokens(tokenizer: nn.Module, x: Tensor) -> tuple[Tensor, Grid]:
    """Tokens (B, h * w, D) of images and their grid (h, w), in float32 under autocast too.

    A sign in a descriptor may hang on a difference that bfloat16 rounds away.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = tokenizer(at_least_float32(x))
    return to_tokens(x), map_grid(x)


class Descriptor(nn.Module):
    """Tokens (B, N, D) -> as many tokens made from their descriptors, which are computed in float32 under autocast."""

    def __init__(
        self,
        dim: int,
        order: int,
        terms: int,
        norm: bool = True,
        published_signs: bool = False,
    ) -> None:
        super().__init__()
        if order < 1 or terms < 2 or dim % order or dim < order * order:
            raise ValueError(
                f"tokens of width {dim} are no series of vectors of length {order} (lds_order), at least as many as "
                "their length; take a multiple of it and no less than its square"
            )
        self.order, self.terms, self.published_signs = order, terms, published_signs
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.proj = nn.Linear(terms * order * order, dim)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm(at_least_float32(x))
            return self.proj(describe(x, self.order, self.terms, self.published_signs))


def describe(x: Tensor, order: int, terms: int, published_signs: bool = False) -> Tensor:
    """Tokens (..., D) -> (..., terms * order^2): the blocks C, CA, CA, (CA)^2, (CA)^3, ... beside each other, by row.

    Each token is a series of D / order vectors of length `order`, newest first; C is its observation matrix (left
    singular vectors) and A its transition matrix. Powers are elementwise.
    """
    series = x.unflatten(-1, (-1, order))
    series = series.transpose(-2, -1).flip(-1)
    series = series - series.mean(-1, keepdim=True)
    observation = left_vectors(series, published_signs)
    states = observation.transpose(-2, -1) @ series
    step = observation @ transition(states)
    powers = [step**power for power in range(1, terms - 1)]
    blocks = torch.cat([observation, step, *powers], dim=-1)
    return blocks.flatten(-2)


def transition(states: Tensor) -> Tensor:
    """The matrix (..., order, order) that takes each state to the next in least squares: (..., order, T) states."""
    current = states[..., :-1]
    following = states[..., 1:]
    crossed = following @ current.transpose(-2, -1)
    covariance = current @ current.transpose(-2, -1)
    return crossed @ torch.linalg.pinv(covariance)


def left_vectors(x: Tensor, published_signs: bool = False) -> Tensor:
    """Left singular vectors (..., n, n) of matrices (..., n, m), n <= m, each one's largest entry positive.

    published_signs leaves them as the solver does.
    """
    return _LeftVectors.apply(x, published_signs)


class _LeftVectors(torch.autograd.Function):
    """U of X = U S V' with a backward pass that stays finite where singular values coincide."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, published_signs: bool) -> Tensor:
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
        if not published_signs:
            largest = u.abs().argmax(-2, keepdim=True)
            u = u * u.gather(-2, largest).sign()
        ctx.save_for_backward(x, u, s)
        return u

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """U holds the eigenvectors of X X': dU = U (F o U' d(XX') U), F_ij = 1 / (s_j^2 - s_i^2), damped near 0."""
        x, u, s = ctx.saved_tensors
        power = s.square()
        gap = power[..., None, :] - power[..., :, None]
        floor = CLOSE * power.amax(-1).square()
        inverse = _damped_inverse(gap, floor[..., None, None])
        transposed = u.transpose(-2, -1)
        inner = (transposed @ grad) * inverse
        mixed = u @ inner @ transposed
        return (mixed + mixed.transpose(-2, -1)) @ x, None


def _damped_inverse(gap: Tensor, floor: Tensor) -> Tensor:
    tiny = torch.finfo(gap.dtype).tiny
    damped = (gap.square() + floor).clamp(min=tiny)
    return gap / damped
