"""Softmax attention over tokens: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Below these numbers of tokens two matrix products beat PyTorch's fused kernel on a CPU. Measured with 12 heads of
# width 16 in fp32, forward and backward on 1 / 2 threads: the fused kernel takes 1.4 / 2.8 times as long at 17 tokens,
# 0.95 / 1.15 at 65 and 0.8 / 0.95 at 145 to 197. Without gradients it is level at 37 and 1.4 times faster at 65.
PLAIN_TOKENS_TRAINING, PLAIN_TOKENS_INFERENCE = 128, 48

FUSED = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ORDERS = {  # the others, too, each once
    name: [*dict.fromkeys((first, *FUSED.values(), SDPBackend.MATH))]
    for name, first in FUSED.items()
}


class Shape(NamedTuple):
    """What an attention is chosen by: each image is on its own, so not by their number."""

    heads: int
    queries: int
    keys: int
    width: int  # of a head
    learns: bool  # whether there are gradients


choices: dict[Shape, str] = {}
"""The backends of this process by shape, "plain" or one of FUSED; else `attend` chooses. Set before a network is
compiled: a graph holds those that it was traced with."""
_records: list[list[tuple[Tensor, Tensor, Tensor]]] = []


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v: queries (B, heads, M, d), keys and values (B, heads, N, d) -> (B, heads, M, d)."""
    for record in _records:
        record.append((_without_values(q), _without_values(k), _without_values(v)))
    if choices and (backend := choices.get(shape_of(q, k, q.requires_grad))):
        return attend_by(backend, q, k, v)
    limit = PLAIN_TOKENS_TRAINING if torch.is_grad_enabled() else PLAIN_TOKENS_INFERENCE
    if q.device.type == "cpu" and k.shape[-2] < limit:
        return attention_weights(q, k) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attend_by(backend: str, q: Tensor, k: Tensor, v: Tensor, alone: bool = False) -> Tensor:
    """`attend` by "plain", "torch" (its own choice) or one of FUSED, in whose place another one stands in.

    alone: none does, and what it cannot take is a RuntimeError.
    """
    if backend == "plain":
        return attention_weights(q, k) @ v
    if backend == "torch":
        return F.scaled_dot_product_attention(q, k, v)
    backends = ORDERS[backend][:1] if alone else ORDERS[backend]
    with sdpa_kernel(backends, set_priority=not alone):
        return F.scaled_dot_product_attention(q, k, v)


def shape_of(q: Tensor, k: Tensor, learns: bool) -> Shape:
    return Shape(q.shape[1], q.shape[2], k.shape[2], q.shape[3], learns)


@contextmanager
def own_choices() -> Iterator[None]:
    """What is chosen inside is forgotten at the end: the next run or command of this process has its own."""
    before = dict(choices)
    try:
        choices.clear()
        yield
    finally:
        choices.clear()
        choices.update(before)


@contextmanager
def recording() -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """The queries, keys and values of each call of `attend` inside, as tensors without values."""
    record: list[tuple[Tensor, Tensor, Tensor]] = []
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)): queries (B, heads, M, d), keys (B, heads, N, d) -> (B, heads, M, N), rows sum to 1."""
    scale = q.shape[-1] ** -0.5
    logits = q * scale @ k.transpose(-2, -1)
    return logits.softmax(-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def split_qkv(x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values side by side (B, N, 3 D) -> each of them as (B, heads, N, D / heads)."""
    q, k, v = x.chunk(3, dim=-1)
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)
