"""Features of a set of images under a frozen network. C channels, H x W pixels, D width."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def features(
    network: nn.Module,
    images: Tensor,
    transform: Callable[[Tensor], Tensor],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    *,
    chosen: Tensor | None = None,
) -> Tensor:
    """uint8 images (N, C, H, W) -> float32 features (N, D) on the device.

    `chosen` (N,) are the indices of the images to take, all by default; only a batch of them is read at a time, which
    matters where the tensor lies over a memory map.
    `transform` turns a uint8 batch on the device into the network's input. The network, already on the device, runs in
    evaluation mode; every module gets its own mode back. N may be 0 if the network has `.dim`.
    """
    device = torch.device(device)
    count, parts = len(images if chosen is None else chosen), []
    with evaluating(network), torch.autocast(device.type, autocast, enabled=autocast is not None):
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            batch = images[part if chosen is None else chosen[part]]
            parts.append(
                network(transform(batch.to(device, non_blocking=device.type == "cuda"))).float()
            )
    return torch.cat(parts) if parts else torch.empty(0, network.dim, device=device)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
