"""How alike two tokens are on three manifolds: the attention maps of the multi-manifold transformers.

Konstantinidis et al. 2023, "Multi-Manifold Attention for Vision Transformers" (IEEE Access, arXiv 2207.08569), as its
code computes them. Queries q and keys k are (B, heads, N, d); every map is (B, heads, N, N), before its scale. Despite
their names they are similarities and no distances on the manifolds; only `covariance_gap` grows with unlikeness.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

SINGULAR = 1e-4  # a column whose part outside the columns before it is smaller than this has no direction of its own
HUGE = 1e30  # stands for infinity where the solver must not meet a true one


def at_least_float32(x: Tensor) -> Tensor:
    """bfloat16 and float16 as float32, other types as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def euclidean(q: Tensor, k: Tensor) -> Tensor:
    """q k'."""
    return q @ k.transpose(-2, -1)


def spd(q: Tensor, k: Tensor) -> Tensor:
    """|cov(q) cov(k)| elementwise, in O(N^2 d + N d^2): the inner factors (d, d) are multiplied first."""
    q = _centred(q)
    k = _centred(k)
    inner = q.transpose(-2, -1) @ k
    return (q @ inner @ k.transpose(-2, -1)).abs()


def grassmann(q: Tensor, k: Tensor) -> Tensor:
    """(Q_q Q_k')^2 elementwise, of orthonormal bases of the columns; depends on the bases, not only on their spans."""
    map_ = basis(q) @ basis(k).transpose(-2, -1)
    return map_.square()


def projection(q: Tensor, k: Tensor) -> Tensor:
    """The bases' entries squared first: sum_d Q_q[i, d]^2 Q_k[j, d]^2, free of the columns' signs."""
    squared_q = basis(q).square()
    squared_k = basis(k).square()
    return squared_q @ squared_k.transpose(-2, -1)


def covariance_gap(q: Tensor, k: Tensor) -> Tensor:
    """|cov(q) - cov(k)| elementwise."""
    return (covariance(q) - covariance(k)).abs()


def log_covariance_gap(q: Tensor, k: Tensor) -> Tensor:
    """|log(1 + cov(q)) - log(1 + cov(k))| elementwise; below -0.999 covariances are cut off to keep it finite."""
    log_q = covariance(q).clamp(min=-0.999).log1p()
    log_k = covariance(k).clamp(min=-0.999).log1p()
    return (log_q - log_k).abs()


def covariance(x: Tensor) -> Tensor:
    """Covariances of tokens over their features: (B, heads, N, d) -> (B, heads, N, N), of rank d - 1 at most."""
    x = _centred(x)
    return x @ x.transpose(-2, -1)


def _centred(x: Tensor) -> Tensor:
    freedom = max(x.shape[-1] - 1, 1)
    return (x - x.mean(-1, keepdim=True)) / freedom**0.5


def basis(x: Tensor) -> Tensor:
    """Orthonormal columns of the QR factorisation, signs as LAPACK leaves them: (..., N, d) -> (..., N, min(N, d))."""
    tokens = x.shape[-2]
    return _Basis.apply(x[..., :tokens])  # of a wide matrix only the first N columns decide


@torch.library.custom_op("multicrop::reflections", mutates_args=())
def _reflections(x: Tensor) -> tuple[Tensor, Tensor]:
    """torch.geqrf, whose shapes torch.compile does not know."""
    return torch.geqrf(x)


@_reflections.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    columns_first = torch.empty_like(x.mT, memory_format=torch.contiguous_format)
    return columns_first.mT, x.new_empty(*x.shape[:-2], min(x.shape[-2:]))


def householder(x: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R as torch.linalg.qr gives them (..., N, d), d <= N, in a few launches for all matrices.

    On a GPU torch makes the reflections of a batch at once, but multiplies them to Q matrix by matrix (pytorch#143281).
    Here Q = I - V T V' of the reflections' vectors V, with 1 / T = striu(V'V) + diag(1 / tau): Schreiber and Van Loan
    1989, "A storage-efficient WY representation for products of Householder transformations". On a CPU that is slower.
    """
    tokens, columns = x.shape[-2:]
    packed, tau = _reflections(x)
    identity = torch.eye(tokens, columns, dtype=x.dtype, device=x.device)
    # A tau of 0 stands for no reflection
    reflects = tau != 0
    vectors = (packed.tril(-1) + identity) * reflects.unsqueeze(-2)
    diagonal = torch.where(reflects, tau, 1.0).reciprocal()
    inverse = (vectors.transpose(-2, -1) @ vectors).triu(1) + torch.diag_embed(diagonal)
    top = vectors[..., :columns, :].transpose(-2, -1)
    q = identity - vectors @ torch.linalg.solve_triangular(inverse, top, upper=True)
    return q, packed[..., :columns, :].triu()


class _Basis(torch.autograd.Function):
    """Q of A = QR with a backward pass that stays finite where the columns of A depend on each other."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        q, r = householder(x) if x.is_cuda else torch.linalg.qr(x)
        ctx.save_for_backward(q, r)
        return q

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """(grad + Q sym(-grad' Q)) R^-T, sym mirroring the lower triangle; a dependent column gets no gradient."""
        q, r = ctx.saved_tensors
        lower = -(grad.transpose(-2, -1) @ q).tril()
        symmetric = lower + lower.tril(-1).transpose(-2, -1)
        grad = grad + q @ symmetric
        diagonal = r.diagonal(dim1=-2, dim2=-1).abs()
        largest = diagonal.amax(-1, keepdim=True)
        dependent = diagonal <= SINGULAR * largest
        r = r + torch.diag_embed(dependent * HUGE)
        return torch.linalg.solve_triangular(r.transpose(-2, -1), grad, upper=False, left=False)
