"""Batches of a uint8 image set: the order is f(seed, epoch), cut by accumulation step and rank."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from . import sampling

RESIDENT_SHARE = (
    0.4  # of the device's free memory; the rest is for the networks and their activations
)
AHEAD = 2  # parts that are read while one is used, so that decoding processes never wait for the step's end


class Pixels(Protocol):
    """uint8 images (N, C, H, W): a tensor, or what indexes like one and decodes what it is asked for."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """One rank's part of one accumulation step. `rank_slice` is its place in the step's global batch.

    `index` (B,) are the images' numbers in the data set, on the CPU.
    """

    images: Tensor  # uint8 (B, C, H, W) on the device
    labels: Tensor | None  # int64 (B,) on the device
    rank_slice: slice
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
        pixels: Pixels,
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
        self.subset, self.device = subset, device
        self.images = len(pixels) if subset is None else len(subset)
        self._positions = order or partial(sampling.shuffled, self.images, seed, passes=passes)
        self._epoch, self._order = -1, torch.empty(0)
        self.total = size * accumulate * world
        self.steps_per_epoch = len(self.order(0)) // self.total
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"a global batch of {self.total} images is more than an epoch has, of {self.images} training images: "
                f"lower the batch size to at most {len(self.order(0)) // (accumulate * world)}"
            )
        self.pixels: Pixels = pixels
        self.resident = False
        if isinstance(pixels, Tensor) and _fits(pixels, device):
            self.pixels, self.resident = pixels.to(device), True
        self.labels = labels.to(device) if labels is not None else None
        self._readers = ThreadPoolExecutor(AHEAD, "read")  # starts no thread before it is used
        # By the part's number, counted from the run's start
        self._reads: dict[int, Future[Tensor]] = {}

    def identity(self) -> dict[str, int]:
        """What a resumed run must share, or its order of images would be another."""
        return {
            "global_batch": self.total,
            "images": self.images,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def step(self, step: int) -> Iterator[Batch]:
        for part in range(self.accumulate):
            yield self._batch(step, part)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch's images, in order."""
        if epoch != self._epoch:
            positions = self._positions(epoch)
            self._epoch = epoch
            self._order = positions if self.subset is None else self.subset[positions]
        return self._order

    def _batch(self, step: int, part: int) -> Batch:
        index, rank_slice = self._index(step, part)
        there = index
        if self.resident or self.labels is not None:
            there = self._send(index)
        images = self.pixels[there] if self.resident else self._prefetched(step, part)
        labels = self.labels[there] if self.labels is not None else None
        return Batch(images, labels, rank_slice, index)

    def _index(self, step: int, part: int) -> tuple[Tensor, slice]:
        """The images of this rank's part, and its slice of the global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = (part * self.world + self.rank) * self.size
        rank_slice = slice(start, start + self.size)
        global_batch = self.order(epoch)[position * self.total :]
        return global_batch[rank_slice], rank_slice

    def _prefetched(self, step: int, part: int) -> Tensor:
        """This part's images; the next parts' are read by threads meanwhile."""
        first = step * self.accumulate + part
        for number in range(first, first + 1 + AHEAD):
            if number not in self._reads:
                self._reads[number] = self._submit(number)
        # Of a step that was not taken
        for number in [number for number in self._reads if number < first]:
            del self._reads[number]
        return self._send(self._reads.pop(first).result())

    def _submit(self, number: int) -> Future:
        """The reading of the part of this number, counted from the run's start."""
        index, _ = self._index(*divmod(number, self.accumulate))
        return self._readers.submit(lambda: self._pinned(self.pixels[index]))

    def _send(self, numbers: Tensor) -> Tensor:
        """To the device, on CUDA without waiting for it; on MPS such a copy could read what has been freed."""
        return self._pinned(numbers).to(self.device, non_blocking=self.device.type == "cuda")

    def _pinned(self, numbers: Tensor) -> Tensor:
        return numbers.pin_memory() if self.device.type == "cuda" else numbers


def _fits(pixels: Pixels, device: torch.device) -> bool:
    """Whether the whole set may live on the device. On a CPU a memory map stays a map: the system caches its pages."""
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return pixels.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return pixels.nbytes < 2**31
