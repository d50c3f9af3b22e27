"""Changes of a batch of images in two halves: what several of them take from the CPU goes to the device at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from .device import send_together


@dataclass(frozen=True)
class Change:
    """numbers: what it takes beside the images, worked out on the CPU. run: images (B, C, H, W) on any device, and
    these numbers there -> images. It sends nothing."""

    numbers: Sequence[Tensor]
    run: Callable[..., Tensor]


def in_turn(images: Tensor, changes: Iterable[Change]) -> Tensor:
    """Images (B, C, H, W) on any device after all of these."""
    changes = list(changes)
    numbers = [number for change in changes for number in change.numbers]
    sent = iter(send_together(numbers, images.device))
    for change in changes:
        images = change.run(images, *islice(sent, len(change.numbers)))
    return images
