"""Numbers made on the CPU, brought to the images' device without waiting for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy on the device, or the tensor itself where it is there already.

    To CUDA it goes from pinned memory, which the allocator keeps until the copy is done, so that the CPU need not wait.
    Elsewhere the copy is complete on return: MPS reads a freed temporary otherwise (pytorch#189690).
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number per channel as (C, 1, 1) float32, kept on the device."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
