"""A progress bar that knows images per second and how long the loop waited for data."""

import sys
import time
from collections.abc import Iterator
from typing import TypeVar

from tqdm import tqdm

from . import ranks

T = TypeVar("T")


class Progress:
    """`images` is the global batch. The bar shows on a terminal only, from rank 0; the numbers exist everywhere."""

    def __init__(self, steps: int, done: int, images: int):
        quiet = ranks.rank() != 0 or not sys.stderr.isatty()
        self.bar = tqdm(
            total=steps,
            initial=done,
            disable=quiet,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self.images, self.steps, self.waited = images, 0, 0.0
        self.begun = time.perf_counter()
        self._mark = (0, 0.0, self.begun)
        self.latest: dict[str, float] = {}

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """Pass items on, counting the time they take to arrive."""
        while True:
            start = time.perf_counter()
            item = next(source, None)
            self.waited += time.perf_counter() - start
            if item is None:
                return
            yield item

    def step(self) -> None:
        self.steps += 1
        self.bar.update()

    def speed(self) -> dict[str, float]:
        """Images per second over all ranks and share of time spent waiting for data, since the last call."""
        now = (self.steps, self.waited, time.perf_counter())
        steps, waited, seconds = (a - b for a, b in zip(now, self._mark, strict=True))
        self._mark = now
        seconds = max(seconds, 1e-9)
        self.latest = {
            "images_per_second": round(steps * self.images / seconds, 1),
            "data_share": round(waited / seconds, 4),
        }
        return self.latest

    def show(self, **values: float | None) -> None:
        self.bar.set_postfix(
            {name: f"{value:.4g}" for name, value in values.items()}, refresh=False
        )

    def total(self) -> dict[str, float]:
        """Images per second and seconds since the start, probes and saving included."""
        seconds = time.perf_counter() - self.begun
        return {
            "images_per_second": round(self.steps * self.images / max(seconds, 1e-9), 1),
            "seconds": round(seconds, 1),
        }

    def close(self) -> None:
        self.bar.close()
