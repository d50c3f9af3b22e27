"""Batches of a uint8 image set: the order is f(seed, epoch), cut by accumulation step and rank."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import sampling

RESIDENT_SHARE = (
    0.4  # of the device's free memory; the rest is for the networks and their activations
)
AHEAD = 2  # parts that are read while one is used, so that decoding processes never wait for the step's end


@dataclass(frozen=True)
class Batch:
    """One rank's part of one accumulation step. `place` is its slice of the step's global batch.

    `index` (B,) are the images' numbers in the data set, on the CPU.
    """

    images: Tensor  # uint8 (B, C, H, W) on the device
    labels: Tensor | None  # int64 (B,) on the device
    place: slice
    index: Tensor


class Batches:
    """batches.step(k) yields the Batch of each accumulation step of optimizer step k, on this rank.

    `pixels` (N, C, H, W) is a tensor, or what indexes like one: images that are decoded when asked for.

    The global batch of a step is `accumulate` x `world` x `size` images, cut such that the same images meet in the same
    step however it is spread: 1 rank x 4 accumulation steps, 2 x 2 or 4 x 1. Incomplete last batches are dropped.
    `subset` holds the indices of the images to use, all by default. `order` gives an epoch's sequence of positions in
    the subset, always of one length (engine/sampling.py); by default `passes` shuffles.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor | None,
        size: int,
        *,
        seed: int,
        device: torch.device,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        passes: int = 1,
        subset: Tensor | None = None,
        order: Callable[[int], Tensor] | None = None,
    ):
        self.size, self.accumulate, self.rank, self.world = size, accumulate, rank, world
        self.subset = torch.arange(len(pixels)) if subset is None else subset
        self.images, self.device = len(self.subset), device
        self._positions = order or partial(sampling.shuffled, self.images, seed, passes=passes)
        self._epoch, self._order = -1, torch.empty(0)
        self.total = size * accumulate * world
        self.steps_per_epoch = len(self.order(0)) // self.total
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"a global batch of {self.total} images is more than an epoch has, of {self.images} training images: "
                f"lower the batch size to at most {len(self.order(0)) // (accumulate * world)}"
            )
        self.resident = isinstance(pixels, Tensor) and _fits(pixels, device)
        self.pixels = pixels.to(device) if self.resident else pixels
        self.labels = labels.to(device) if labels is not None else None
        self._ahead = None if self.resident else ThreadPoolExecutor(AHEAD, "read")
        self._fetched: dict = {}

    def step(self, step: int) -> Iterator[Batch]:
        for part in range(self.accumulate):
            yield self._batch(step, part)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch's images, in order."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.subset[self._positions(epoch)]
        return self._order

    def _batch(self, step: int, part: int) -> Batch:
        index, place = self._index(step, part)
        images = self.pixels[self._send(index)] if self.resident else self._prefetched(step, part)
        labels = self.labels[self._send(index)] if self.labels is not None else None
        return Batch(images, labels, place, index)

    def _index(self, step: int, part: int) -> tuple[Tensor, slice]:
        """The images of this rank's part, and its place in the global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = (part * self.world + self.rank) * self.size
        place = slice(start, start + self.size)
        return self.order(epoch)[position * self.total :][place], place

    def _prefetched(self, step: int, part: int) -> Tensor:
        """This part's images; the next parts' are read by threads meanwhile."""
        first = step * self.accumulate + part
        known, parts = self._fetched, range(first, first + 1 + AHEAD)
        self._fetched = {number: known.get(number) or self._submit(number) for number in parts}
        return self._send(self._fetched.pop(first).result())

    def _submit(self, number: int) -> Future:
        """The reading of the part of this number, counted from the run's start."""
        index, _ = self._index(*divmod(number, self.accumulate))
        return self._ahead.submit(lambda: self._pinned(self.pixels[index]))

    def _send(self, numbers: Tensor) -> Tensor:
        """To the device, on CUDA without waiting for it; on MPS such a copy could read what has been freed."""
        return self._pinned(numbers).to(self.device, non_blocking=self.device.type == "cuda")

    def _pinned(self, numbers: Tensor) -> Tensor:
        return numbers.pin_memory() if self.device.type == "cuda" else numbers


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether the whole set may live on the device. On a CPU a memory map stays a map: the system caches its pages."""
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return pixels.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return pixels.nbytes < 2**31
