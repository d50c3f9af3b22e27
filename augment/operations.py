"""Named operations in a batch: which of them each image gets, one after another, and how strongly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .device import send_together
from .draws import Draws

Operation = Callable[[Tensor, Tensor], Tensor]
"""uint8 images (B, C, H, W) on any device and an amount for each (B,) on the CPU -> uint8 images."""


@dataclass(frozen=True)
class Operations(Draws):
    """Per image: the index of each operation or -1 for none, (B, n) int64, and its amount (B, n) float64."""

    operation: Tensor
    amount: Tensor


def apply(images: Tensor, draws: Operations, table: Sequence[Operation]) -> Tensor:
    """All operations of every image, in order: uint8 (B, C, H, W) on any device, draws on the CPU -> uint8.

    Images of equal operation are brought together, so that each operation runs once per slot and nothing waits for
    the device: which images those are is known on the CPU.
    """
    # Which image stands where in each slot, and how they get there from the slot before.
    position = torch.arange(len(images))
    positions, orders = [], []
    for slot in range(draws.operation.shape[1]):
        order = draws.operation[position, slot].argsort(stable=True)
        position = position[order]
        positions.append(position)
        orders.append(order)
    *orders, back = send_together((*orders, position.argsort()), images.device)

    for slot, (position, order) in enumerate(zip(positions, orders, strict=True)):
        operation, amount = draws.operation[position, slot], draws.amount[position, slot]
        images = images[order]
        _apply_sorted(images, operation, amount, table)
    return images[back]


def _apply_sorted(
    images: Tensor, operation: Tensor, amount: Tensor, table: Sequence[Operation]
) -> None:
    """Change images sorted by operation in place."""
    counts = torch.bincount(operation + 1, minlength=len(table) + 1).tolist()
    start = counts[0]  # those without an operation come first
    for run, count in zip(table, counts[1:], strict=True):
        end = start + count
        if count:
            images[start:end] = run(images[start:end], amount[start:end])
        start = end
