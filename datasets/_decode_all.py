"""Decode a list of images into one file of uint8 pixels, in parallel, and measure them on the way."""

import contextlib
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import _decode
from ._decode import Place
from ._workers import Worker, processors

CHUNK = 64  # images per request to a worker


def decode_all(
    image_places: list[Place], out: Path, source_size: int, title: str
) -> dict[str, Any]:
    """Write the readable images to `out`, uint8 (N, 3, side, side).

    Returns {side, skipped: [[index, reason]], mean, std}. Images that are all square, of one side and not larger than
    source_size are stored as they are, otherwise all are resized to source_size. OSError without room for them.
    """
    side = common_side(image_places, source_size)
    if side is not None:
        # The headers of a sample were alike; another image may differ.
        with contextlib.suppress(_decode.OtherSize):
            return _decode_to(image_places, out, side, True, title)
    return _decode_to(image_places, out, source_size, False, title)


def common_side(image_places: list[Place], source_size: int) -> int | None:
    """The side that a sample of the readable images shares, if it is at most source_size."""
    step = max(1, len(image_places) // 64)
    sides = set()
    for place in image_places[::step]:
        side = _decode.square_side(place)
        if side is not None:
            sides.add(side)
    if len(sides) != 1:
        return None
    (side,) = sides
    return side if side <= source_size else None


def _decode_to(
    image_places: list[Place], out: Path, side: int, exact: bool, title: str
) -> dict[str, Any]:
    """Write the readable images to `out`. The side, the others and the statistics."""
    count = len(image_places)
    _make_room(out, count * 3 * side * side)
    chunks: deque[tuple[int, list[Place]]] = deque()
    for start in range(0, count, CHUNK):
        chunks.append((start, image_places[start : start + CHUNK]))
    with tqdm(total=count, desc=title, unit=" images", file=sys.stderr, mininterval=0.5) as bar:
        if len(chunks) <= 2:  # a worker takes longer to start
            replies = _decode_here(chunks, out, side, exact)
            bar.update(count)
        else:
            replies = _decode_in_workers(chunks, out, side, exact, bar.update)
    skipped: list[list] = []
    for reply in replies:
        skipped += reply["unreadable"]
    skipped.sort()
    _close_gaps(out, side, count, [index for index, _ in skipped])
    mean, std = _statistics(replies, (count - len(skipped)) * side * side)
    return {"side": side, "skipped": skipped, "mean": mean, "std": std}


def _make_room(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise OSError(f"{size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")
    with open(out, "wb") as file:
        file.truncate(size)


def _statistics(replies: list[dict], count: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in units of 0..1, of `count` pixels per channel.

    Unreadable images are black and add nothing.
    """
    count = max(count, 1)
    sums = np.sum([reply["sums"] for reply in replies], 0)
    squares = np.sum([reply["squares"] for reply in replies], 0)
    mean = sums / count / 255
    variance = squares / count / 255**2 - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 0)).tolist()


def _close_gaps(out: Path, side: int, count: int, missing: list[int]) -> None:
    """Move the rows after a missing one up and cut the file to the rows that are left."""
    if not missing or len(missing) == count:
        return
    rows = np.memmap(out, np.uint8, "r+", shape=(count, 3 * side * side))
    kept = np.setdiff1d(np.arange(missing[0], count), missing)
    for place, row in enumerate(kept, start=missing[0]):
        rows[place] = rows[row]
    rows.flush()
    del rows
    os.truncate(out, (count - len(missing)) * 3 * side * side)


def _decode_here(chunks: deque, out: Path, side: int, exact: bool) -> list[dict]:
    with open(out, "r+b") as file:
        return [_decode.decode(file, start, part, side, exact) for start, part in chunks]


def _decode_in_workers(
    chunks: deque, out: Path, side: int, exact: bool, report: Callable[[int], object]
) -> list[dict]:
    """One thread per worker process hands it chunk after chunk; 2 processes decode 3 times what 2 threads do."""
    count = min(processors(), len(chunks))
    arguments = ("exact" if exact else "fit", side, out)
    replies: list[dict] = []
    with ThreadPoolExecutor(count) as threads:
        try:
            served = [threads.submit(_serve, arguments, chunks, report) for _ in range(count)]
            for done in as_completed(served):
                replies += done.result()
        except BrokenPipeError as error:
            raise ChildProcessError(
                "an image-decoding process was ended; was memory short?"
            ) from error
        finally:
            chunks.clear()  # after an error or Ctrl-C the others stop at their next chunk
    return replies


def _serve(arguments: tuple, chunks: deque, report: Callable[[int], object]) -> list[dict]:
    """Replies of one worker to the chunks that it took."""
    replies = []
    with contextlib.closing(Worker(*arguments)) as worker:
        for start, part in _take_all(chunks):
            reply = worker.ask([start, part])
            _check(reply)
            report(reply["count"])
            replies.append(reply)
    return replies


def _take_all(chunks: deque) -> Iterator[tuple[int, list[Place]]]:
    with contextlib.suppress(IndexError):  # empty
        while True:
            yield chunks.popleft()


def _check(reply: dict) -> None:
    """OtherSize and OSError are the worker's."""
    if "other_size" in reply:
        raise _decode.OtherSize(reply["other_size"])
    if "error" in reply:
        raise OSError(reply["error"])
