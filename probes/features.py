"""Features of a set of images under a frozen network. N images of C channels and H x W pixels, D width."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


@torch.no_grad()
def extract_features(
    network: nn.Module,
    images: Tensor,
    transform: Callable[[Tensor], Tensor],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    *,
    indices: Tensor | None = None,
) -> Tensor:
    """uint8 images (N, C, H, W) -> what the network gives for them, float32 (N, D) on the device.

    `indices` (n,) are those of the images to take, all by default, and the result is (n, D) in their order; only a
    batch of them is read at a time, which matters where the tensor lies over a memory map.
    `transform` turns a uint8 batch on the device into the network's input. The network, already on the device, runs in
    evaluation mode; every module gets its own mode back. N may be 0 if the network has `.dim`.
    """
    device = torch.device(device)
    count = len(images) if indices is None else len(indices)
    if count == 0:
        return torch.empty(0, cast(int, network.dim), device=device)
    batches = []
    with (
        evaluation_mode(network),
        torch.autocast(device.type, autocast, enabled=autocast is not None),
    ):
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            batch = images[rows] if indices is None else images[indices[rows]]
            features = network(transform(_sent(batch, device)))
            batches.append(features.float())
    return torch.cat(batches)


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """On the device; to CUDA from pinned memory, so that the CPU reads the next batch while the network works."""
    if device.type != "cuda" or batch.device.type != "cpu":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
