"""Weights by rule, as for the recorded logits of the registered compact transformers: no file has to hold them."""

import numpy as np
import torch
from torch import Tensor

IMAGES = 1_000_000  # the tensor number of the images


def uniform(count: int, number: int) -> np.ndarray:
    """`count` doubles in [-1, 1) that depend on their index and the tensor's number alone."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B9 * (number + 1) % 2**32)
    x = x.astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x.astype(np.float64) / 2**31 - 1


def images(batch: int, size: int) -> Tensor:
    values = uniform(batch * 3 * size * size, IMAGES).astype(np.float32) * np.float32(1.5)
    return torch.from_numpy(values).view(batch, 3, size, size)


def state(shapes: dict[str, list[int]], fixed: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A state dict of the published names, in the order of which tensors are numbered; `fixed` ones are left out."""
    filled = {}
    for number, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        if shape and name not in fixed and not name.endswith("num_batches_tracked"):
            values = _value(name, shape, uniform(int(np.prod(shape)), number))
            filled[name] = torch.from_numpy(values.astype(np.float32)).view(shape)
    return filled


def _value(name: str, shape: list[int], u: np.ndarray) -> np.ndarray:
    *path, last = name.split(".")
    if last in (
        scales := {
            "running_mean": 0.1,
            "bias": 0.05,
            "positional_emb": 0.3,
            "class_emb": 0.5,
            "attn_matrix": 0.1,
        }
    ):
        return scales[last] * u
    if last == "running_var":
        return 1 + 0.3 * u
    if path[-1] in ("norm", "norm1", "pre_norm") or ("conv_attn" in path and len(shape) != 4):
        return 1 + 0.1 * u
    spread = u * np.sqrt(3 * shape[0] / np.prod(shape))
    return 2 * spread if path[-1] == "attention_pool" else spread
