"""Decoding processes (_decoder.py) as those who ask them see them."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import _decoder
from ._console import say_once
from ._convert import Form, NoRange, Notes
from ._decode import Place, Rows

CHUNK = (
    8  # most images per request to a streaming worker; small, so that none waits long for another
)


FILES = 2  # open ones for each process
SPARE_FILES = (
    48  # for all else: modules, logs, sockets, and what starting a process takes for a moment
)


def processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def affordable(count: int) -> int:
    """So many processes, or fewer where the limit of open files is too low for them, which is said; at least one."""
    try:
        import resource
    except ImportError:  # not on Windows
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and soft < SPARE_FILES + FILES * count:
        with contextlib.suppress(
            ValueError, OSError
        ):  # some systems have a limit below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return count
    most = max(1, (soft - SPARE_FILES) // FILES)
    if most < count:
        say_once(
            f"{most} decoding processes in place of {count}: at most {soft} files may be open (ulimit -n)"
        )
    return min(count, most)


class Worker:
    """One process; it ends when its input does, also when this process is killed."""

    def __init__(self, *arguments: object):
        command = [sys.executable, _decoder.__file__, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout
        self._requests, self._replies = self.process.stdin, self.process.stdout

    def ask(self, request: list) -> dict[str, Any]:
        """Its reply to one request. BrokenPipeError when it is gone."""
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        line = self._replies.readline()
        if not line:
            raise BrokenPipeError
        return json.loads(line)

    def fill(self, rows: np.ndarray) -> None:
        """Read as many bytes as `rows` holds into it."""
        view = memoryview(rows.data).cast("B")
        while view.nbytes:
            count = self._replies.readinto(view)  # type: ignore[attr-defined]  # it is a BufferedReader
            if not count:
                raise BrokenPipeError
            view = view[count:]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(BrokenPipeError):  # it ended with a request unread
                pipe.close()
        self.process.wait()


class Decoders:
    """`count` workers that decode images for any thread. They start at the first call."""

    def __init__(self, count: int, form: Form):
        self.count, self.form = affordable(count), form
        self._threads = ThreadPoolExecutor(self.count, "decode")
        self._workers: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        weakref.finalize(self, _close, self._threads, self._workers)

    def decode(self, places: list[Place]) -> Rows:
        """Pixels of images; ChildProcessError if a worker is gone, NoRange where the form lacks one."""
        pixels = np.empty((len(places), *self.form.shape), np.uint8)
        # Two requests to each worker, rounded up
        size = max(1, -(-len(places) // (2 * self.count)))
        size = min(CHUNK, size)
        starts = range(0, len(places), size)
        parts = [slice(start, start + size) for start in starts]
        replies = self._threads.map(
            self._decode, [places[part] for part in parts], [pixels[part] for part in parts]
        )
        unreadable: list[list] = []
        notes: Notes = Counter()
        checksums: list[int] = []
        for start, reply in zip(starts, replies, strict=True):
            for row, reason in reply["unreadable"]:
                unreadable.append([start + row, reason])
            notes.update(reply["notes"])
            checksums += reply["checksums"]
        return Rows(pixels, unreadable, notes, checksums)

    def _decode(self, places: list[Place], rows: np.ndarray) -> dict[str, Any]:
        """Decode into `rows`; what cannot be read as [row, reason], notes, and checksums."""
        worker = self._take()
        try:
            reply = worker.ask(places)
            if "no_range" not in reply:
                worker.fill(rows)
        except BrokenPipeError as error:
            raise ChildProcessError(
                "an image-decoding process was ended; was memory short?"
            ) from error
        self._idle.put(worker)
        if "no_range" in reply:
            raise NoRange(reply["no_range"])
        return reply

    def _take(self) -> Worker:
        """An idle worker; there are as many as threads, so one is idle or yet to be started."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            worker = Worker("stream", json.dumps(self.form))
            self._workers.append(worker)
            return worker


def _close(threads: ThreadPoolExecutor, workers: list[Worker]) -> None:
    """End all processes."""
    threads.shutdown(wait=False, cancel_futures=True)  # it may be one of them that let go last
    for worker in workers:
        worker.close()
