"""Attention with weights from maps on one or several manifolds, as two revisions of the published code have it.

Konstantinidis et al. 2023 (IEEE Access, arXiv 2207.08569); code: github.com/iliasprc/Compact-Transformers, Apache-2.0,
revisions bd55c27 ("f1", January 2022) and 31975a0 ("f2", February 2022). Names of parameters are the published ones.
Maps and their fusion are computed in float32 under autocast: the QR factorisation has no kernel of less precision.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ._attention import merge_heads, split_heads
from ._manifolds import (
    at_least_float32,
    covariance_gap,
    euclidean,
    grassmann,
    log_covariance_gap,
    projection,
    spd,
)
from ._map_norm import MapNorm


class Fusion(NamedTuple):
    """Which maps are stacked, in this order, and what normalises the stack before a 1x1 convolution fuses it."""

    maps: tuple[str, ...]
    norm: str | None


# By the names of their learned scales
MAPS = {
    "scale": euclidean,
    "riem_scale": spd,
    "grassman_scale": grassmann,
}
E, S, G = MAPS
FUSIONS = {
    "f1": {
        "riem": Fusion((E, S), "layer"),
        "all": Fusion((E, S, G), "batch"),
        "riemgrass": Fusion((G, G), "batch"),
    },
    "f2": {
        "spd": Fusion((E, S), None),
        "all": Fusion((E, S, G), "layer"),
        "gm": Fusion((E, G), "layer"),
        "riemgrass": Fusion((G, G), "layer"),
    },
}


class _Attention(nn.Module):
    """Tokens (B, N, D) of a grid (h, w), class token first if there is one -> (B, N, D), by `weights` of a subclass."""

    def __init__(self, dim: int, num_heads: int, attn_drop_rate: float, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(attn_drop_rate), nn.Dropout(drop_rate)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        q, k, v = self.queries_keys_values(x)
        return self.proj_drop(self.proj(merge_heads(self.exact_weights(q, k, grid) @ v)))

    def weights(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        """q, k (B, heads, N, d) -> the weights (B, heads, N, N)."""
        raise NotImplementedError

    def attention(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The weights (B, heads, N, N) that tokens (B, N, D) get."""
        q, k, _ = self.queries_keys_values(x)
        return self.exact_weights(q, k, grid)

    def queries_keys_values(self, x: Tensor) -> list[Tensor]:
        return [split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1)]

    def exact_weights(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        """`weights` in float32 at least: q, k (B, heads, N, d) -> (B, heads, N, N)."""
        with torch.autocast(q.device.type, enabled=False):
            return self.weights(at_least_float32(q), at_least_float32(k), grid)


class FusedAttention(_Attention):
    """softmax of several manifolds' maps, scaled, normalised and fused by a 1x1 convolution over the heads."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        fusion: Fusion,
        *,
        side: int,
        prefix: int,
        attn_drop_rate: float = 0.1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop_rate, drop_rate)
        self.stack, self.drops_spd = fusion.maps, fusion.maps == (E, S, G)
        for name in dict.fromkeys(fusion.maps):
            self.register_parameter(name, nn.Parameter(torch.tensor((dim // num_heads) ** -0.5)))
        channels = len(fusion.maps) * num_heads
        norms = {
            "layer": lambda: MapNorm(channels, side, prefix),
            "batch": lambda: nn.BatchNorm2d(channels),
        }
        norm = [norms[fusion.norm]()] if fusion.norm else []
        self.conv_attn = nn.Sequential(*norm, nn.Conv2d(channels, num_heads, 1))

    def weights(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = {name: MAPS[name](q, k) * getattr(self, name) for name in dict.fromkeys(self.stack)}
        if self.drops_spd:
            maps[S] = self.attn_drop(maps[S])
        x = torch.cat([maps[name] for name in self.stack], dim=1)
        for module in self.conv_attn:
            x = module(x, grid) if isinstance(module, MapNorm) else module(x)
        return self.attn_drop(x.softmax(-1))


class GrassmannAttention(_Attention):
    """A normalised Grassmann map taken as the weights, without a softmax: f1 the scaled map, f2 the sign-free one.

    Under autocast queries and keys are computed in float32 too: bases of rounded columns may be quite different ones.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        revision: str,
        *,
        side: int,
        prefix: int,
        attn_drop_rate: float = 0.1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop_rate, drop_rate)
        self.scale = (
            nn.Parameter(torch.tensor((dim // num_heads) ** -0.5)) if revision == "f1" else None
        )
        self.norm = MapNorm(num_heads, side, prefix)

    def queries_keys_values(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return super().queries_keys_values(at_least_float32(x))

    def weights(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        x = projection(q, k) if self.scale is None else grassmann(q, k) * self.scale
        return self.norm(self.attn_drop(x), grid)


class RiemannianAttention(_Attention):
    """softmax of the gap between the covariances of queries and keys, f1 after a layer norm of each row."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        revision: str,
        *,
        side: int,
        prefix: int,
        logarithm: bool = False,
        attn_drop_rate: float = 0.1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop_rate, drop_rate)
        self.gap = log_covariance_gap if logarithm else covariance_gap
        self.norm = MapNorm(None, side, prefix) if revision == "f1" else None

    def weights(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.gap(q, k)
        x = x if self.norm is None else self.norm(x, grid)
        return self.attn_drop(x.softmax(-1))


def maker(
    kind: str,
    revision: str | None,
    attention_type: str | None,
    ln_attention: bool,
    dim: int,
    num_heads: int,
    **sizes: Any,
) -> Callable[[], nn.Module]:
    """What makes one layer's attention: kind "manifold" (of several), "grassmann" or "riemann". ValueError if unknown.

    revision=None is the newer of the two that has the type. `sizes` are the side, prefix and rates of the classes here.
    """
    check_revision(revision)
    if kind == "manifold":
        fusion = _fusion(revision, attention_type or "all")
        fusion = (
            fusion._replace(norm=None) if fusion.norm == "layer" and not ln_attention else fusion
        )
        return partial(FusedAttention, dim, num_heads, fusion, **sizes)
    types = {"grassmann": (None,), "riemann": (None, "log")}[kind]
    if attention_type not in types or not ln_attention:
        raise ValueError(
            f"attention_type {attention_type!r} and ln_attention=False are for manifold_* networks"
        )
    if kind == "grassmann":
        return partial(GrassmannAttention, dim, num_heads, revision or "f2", **sizes)
    return partial(
        RiemannianAttention,
        dim,
        num_heads,
        revision or "f2",
        logarithm=attention_type == "log",
        **sizes,
    )


def check_revision(revision: str | None) -> None:
    """ValueError unless it is None or a revision of the published code."""
    if revision not in (None, *FUSIONS):
        raise ValueError(f"revision is {revision!r}; it must be one of {', '.join(FUSIONS)}")


def _fusion(revision: str | None, attention_type: str) -> Fusion:
    revisions = (revision,) if revision else tuple(reversed(FUSIONS))
    for name in revisions:
        if attention_type in FUSIONS[name]:
            return FUSIONS[name][attention_type]
    choices = "; ".join(
        f"{', '.join(types)} ({name})" for name, types in FUSIONS.items() if name in revisions
    )
    raise ValueError(f"attention_type {attention_type!r} is unknown; there are {choices}")
