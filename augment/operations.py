"""Named operations in a batch: which of them each image gets, one after another, and how strongly."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .changes import Change, in_turn
from .draws import Draws

Operation = Callable[[Tensor, int, int], Change]
"""An amount for each image (B,), on the CPU, and the images' height and width in px -> the change of uint8 images."""


@dataclass(frozen=True)
class Operations(Draws):
    """Per image: the index of each operation or -1 for none, (B, n) int64, and its amount (B, n) float64."""

    operation: Tensor
    amount: Tensor


def apply(images: Tensor, draws: Operations, table: Sequence[Operation]) -> Tensor:
    """All operations of every image, in order: uint8 (B, C, H, W) on any device, draws on the CPU -> uint8."""
    height, width = images.shape[2:]
    return in_turn(images, [change(draws, (height, width), table)])


def change(draws: Operations, size: tuple[int, int], table: Sequence[Operation]) -> Change:
    """The same, to be run later on images of this height and width in px.

    Images of equal operation are brought together, so that each operation runs once per slot and nothing waits for
    the device: which images those are is known on the CPU.
    """
    # Which image stands where in each slot, and how they get there from the slot before.
    position = torch.arange(len(draws.operation))
    orders, slots = [], []
    for slot in range(draws.operation.shape[1]):
        order = draws.operation[position, slot].argsort(stable=True)
        position = position[order]
        operation, amount = draws.operation[position, slot], draws.amount[position, slot]
        orders.append(order)
        slots.append(list(_sorted_changes(operation, amount, size, table)))
    numbers = [*orders, position.argsort()]
    numbers += [number for slot in slots for _, each in slot for number in each.numbers]

    def run(images: Tensor, *sent: Tensor) -> Tensor:
        own = iter(sent[len(orders) + 1 :])
        for order, slot in zip(sent, slots, strict=False):
            images = images[order]
            for rows, each in slot:
                images[rows] = each.run(images[rows], *islice(own, len(each.numbers)))
        return images[sent[len(orders)]]

    return Change(numbers, run)


def _sorted_changes(
    operation: Tensor, amount: Tensor, size: tuple[int, int], table: Sequence[Operation]
) -> Iterator[tuple[slice, Change]]:
    """Which of the images, sorted by operation, are changed and how."""
    counts = torch.bincount(operation + 1, minlength=len(table) + 1).tolist()
    start = counts[0]  # those without an operation come first
    for run, count in zip(table, counts[1:], strict=True):
        end = start + count
        if count:
            yield slice(start, end), run(amount[start:end], *size)
        start = end
