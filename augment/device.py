"""Numbers made on the CPU, brought to the images' device without waiting for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import accumulate
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
ALIGNMENT = 16  # bytes; a number of any type may begin there


def has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy on the device, or the tensor itself where it is there already.

    To CUDA it goes from pinned memory, which the allocator keeps until the copy is done, so that the CPU need not wait.
    Elsewhere the copy is complete on return: MPS reads a freed temporary otherwise (pytorch#189690). MPS has no
    float64, so such numbers arrive there as float32.
    """
    if tensor.dtype == torch.float64 and not has_float64(torch.device(device)):
        tensor = tensor.float()
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def send_together(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Copies of several tensors of the CPU on the device; to CUDA in one transfer, since each costs the host time."""
    if torch.device(device).type != "cuda":
        return [send(tensor, device) for tensor in tensors]
    if not tensors:
        return []
    ends = list(accumulate(-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors))
    starts = [0, *ends[:-1]]
    packed = torch.empty(ends[-1], dtype=torch.uint8)
    for tensor, start in zip(tensors, starts, strict=True):
        packed[start : start + tensor.nbytes] = tensor.contiguous().reshape(-1).view(torch.uint8)
    there = send(packed, device)
    return [
        there[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for tensor, start in zip(tensors, starts, strict=True)
    ]


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32 inside, whatever the networks take (--precision tf32): its 10 bits of fraction are few for 255 levels."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """What is computed once for its arguments, given by position, and kept.

    A dictionary, since a compiled graph takes what is in it, and goes past functools' caches to what fills them.
    """
    kept: dict[tuple, R] = {}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        assert not kwargs
        if args not in kept:
            kept[args] = function(*args, **kwargs)
        return kept[args]

    return call


@constant
def channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number per channel as (C, 1, 1) float32, kept on the device."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
