"""Named operations in a batch: which of them each image gets, one after another, and how strongly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .device import send
from .draws import Draws

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""uint8 images (B, C, H, W) on any device and an amount for each (B,) on the CPU -> uint8 images."""


@dataclass(frozen=True)
class Operations(Draws):
    """Per image: the index of each operation or -1 for none, (B, n) int64, and its amount (B, n) float64."""

    operation: torch.Tensor
    amount: torch.Tensor


def apply(images: torch.Tensor, draws: Operations, table: Sequence[Operation]) -> torch.Tensor:
    """All operations of every image, in order: uint8 (B, C, H, W) on any device, draws on the CPU -> uint8.

    Images of equal operation are brought together, so that each operation runs once per slot and nothing waits for
    the device: which images those are is known on the CPU.
    """
    at = torch.arange(len(images))  # which image stands where
    for slot in range(draws.operation.shape[1]):
        order = draws.operation[at, slot].argsort(stable=True)
        images = images[send(order, images.device)]
        at = at[order]
        _each_operation(images, draws.operation[at, slot], draws.amount[at, slot], table)
    return images[send(at.argsort(), images.device)]


def _each_operation(
    images: torch.Tensor, operation: torch.Tensor, amount: torch.Tensor, table: Sequence[Operation]
) -> None:
    """Change images sorted by operation in place."""
    counts = torch.bincount(operation + 1, minlength=len(table) + 1).tolist()
    start = counts[0]  # those without an operation come first
    for run, count in zip(table, counts[1:], strict=True):
        if count:
            part = slice(start, start + count)
            images[part] = run(images[part], amount[part])
        start += count
