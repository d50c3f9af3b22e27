"""Decoding processes (_decode.py as a program) as those who ask them see them."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import _decode

CHUNK = 8  # most images per order to a streaming worker; small, so that none waits long for another


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """One process; it ends when its input does, also when this process is killed."""

    def __init__(self, *arguments: object):
        command = [sys.executable, _decode.__file__, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, order: list) -> dict:
        """Its answer to one order. BrokenPipeError when it is gone."""
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise BrokenPipeError
        return json.loads(line)

    def fill(self, rows: np.ndarray) -> None:
        """Read as many bytes as `rows` holds into it."""
        view = memoryview(rows).cast("B")
        while view.nbytes:
            count = self.process.stdout.readinto(view)
            if not count:
                raise BrokenPipeError
            view = view[count:]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it ended with an order unread
                pipe.close()
        self.process.wait()


class Decoders:
    """`count` workers that decode images for any thread. They start at the first call."""

    def __init__(self, count: int, side: int):
        self.count, self.side = count, side
        self._threads = ThreadPoolExecutor(count, "decode")
        self._workers: list[Worker] = []
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        weakref.finalize(self, _close, self._threads, self._workers)

    def decode(self, places: list[_decode.Place]) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """uint8 (N, 3, side, side), and (row, reason) of what cannot be read. ChildProcessError if a worker is gone."""
        pixels = np.empty((len(places), 3, self.side, self.side), np.uint8)
        size = min(CHUNK, max(1, -(-len(places) // (2 * self.count))))
        starts = range(0, len(places), size)
        parts = self._threads.map(
            lambda s: self._decode(places[s : s + size], pixels[s : s + size]), starts
        )
        return pixels, [
            (start + row, reason)
            for start, bad in zip(starts, parts, strict=True)
            for row, reason in bad
        ]

    def _decode(self, places: list[_decode.Place], rows: np.ndarray) -> list:
        worker = self._take()
        try:
            bad = worker.ask(places)["bad"]
            worker.fill(rows)
        except BrokenPipeError as error:
            raise ChildProcessError(
                "an image-decoding process was ended; was memory short?"
            ) from error
        self._idle.put(worker)
        return bad

    def _take(self) -> Worker:
        """An idle worker; there are as many as threads, so one is idle or yet to be started."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            worker = Worker("stream", self.side)
            self._workers.append(worker)
            return worker


def _close(threads: ThreadPoolExecutor, workers: list[Worker]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)  # it may be one of them that let go last
    for worker in workers:
        worker.close()
