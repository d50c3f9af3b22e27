"""Decode a list of images into one file of uint8 pixels, in parallel, and measure them on the way."""

import contextlib
import json
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn.modules.utils import _pair

from . import _decode, _look, _stopping
from ._console import progress
from ._convert import AS_PUBLISHED, Conversion, Form, NoRange, OtherSize
from ._decode import Header, Place
from ._journal import Journal
from ._workers import Worker, affordable, processors

CHUNK = 64  # images per request to a worker
Chunk = tuple[int, list[Place]]  # the row of the first image, and the images
Report = Callable[[int], object]  # is told how many images are done


@dataclass(frozen=True)
class Output:
    """The file that rows of pixels are written to."""

    file: Path
    form: Form

    @property
    def row(self) -> int:
        """Bytes of an image."""
        return math.prod(self.form.shape)


def decode_all(
    places: list[Place],
    file: Path,
    source_size: int | tuple[int, int],
    title: str,
    asked: Conversion = AS_PUBLISHED,
) -> dict[str, Any]:
    """Write the readable images to `file`, uint8 (N, C, height, width). title: what people call them.

    Returns {side, skipped: [[index, reason]], mean, std, conversion, measured, notes, beyond_centre}: how they were
    converted where that was left open, and what was dropped; side is [height, width] where these differ. Images that
    are all of the shape of source_size (square where it is one number), of one size and not larger are stored as they
    are, otherwise all are brought to source_size. OSError without room for them, ValueError where their channels
    are not those that are asked for.
    """
    sample = _look.headers(places)
    most = _pair(source_size)
    _look.check_channels(sample, asked, title)
    look = _look.settle(places, sample, asked, most)
    size = common_size(sample, most)
    while True:
        form = Form(size or most, size is not None, look.conversion)
        try:
            stored = _decode_to(Output(file, form), places, title)
        except OtherSize:  # the headers of a sample were alike
            size = None
        except NoRange as error:  # all of a sample were of 8 bits
            look = look.measure_rare(places, str(error))
        else:
            return {**stored, "conversion": look.conversion, "measured": look.measured}


def common_size(sample: list[Header], most: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width in pixels that those of a sample share that have the shape of `most`, if it is not more."""
    height, width = most
    sizes = set()
    for header in sample:
        if header.height * width == header.width * height:
            sizes.add((header.height, header.width))
    if len(sizes) != 1:
        return None
    size = sizes.pop()
    return size if size <= most else None


def _decode_to(output: Output, places: list[Place], title: str) -> dict[str, Any]:
    """Write the readable images to the file. The side, the other images and the statistics."""
    count = len(places)
    journal = Journal(output.file, output.form, count)
    done = journal.done()
    if not done:
        _make_room(output.file, count * output.row)
        journal.begin()
    replies = list(done.values())
    chunks: deque[Chunk] = deque()
    for start in range(0, count, CHUNK):
        if start not in done:
            chunks.append((start, places[start : start + CHUNK]))
    with progress(count, f"decoding {title}") as bar:
        bar.update(sum(reply["count"] for reply in replies))
        if len(chunks) <= 2:  # a worker takes longer to start
            replies += _decode_here(output, chunks)
            bar.update(sum(len(images) for _, images in chunks))
        else:
            replies += _decode_in_workers(output, chunks, journal, bar.update)
    skipped: list[list] = []
    for reply in replies:
        skipped += reply["unreadable"]
    skipped.sort()
    _close_gaps(output, count, [index for index, _ in skipped])
    readable = count - len(skipped)
    height, width = output.form.size
    mean, std = _statistics(replies, readable * height * width)
    notes: Counter[str] = Counter()
    for reply in replies:
        notes.update(reply["notes"])
    beyond = notes.pop("beyond the centre", 0.0) / max(readable, 1)
    return {
        "side": height if height == width else [height, width],
        "skipped": skipped,
        "mean": mean,
        "std": std,
        "notes": notes,
        "beyond_centre": beyond,
    }


def _make_room(file: Path, size: int) -> None:
    """A file of so many bytes. OSError when the disk has no room for it."""
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise OSError(f"{size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")
    with open(file, "wb") as out:
        out.truncate(size)


def _statistics(replies: list[dict], pixels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in units of 0..1, of `pixels` readable pixels per channel.

    Unreadable images are black and add nothing.
    """
    pixels = max(pixels, 1)
    sums = np.sum([reply["sums"] for reply in replies], 0)
    squares = np.sum([reply["squares"] for reply in replies], 0)
    mean = sums / pixels / 255
    variance = squares / pixels / 255**2 - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    return mean.tolist(), std.tolist()


def _close_gaps(output: Output, count: int, missing: list[int]) -> None:
    """Move the rows after a missing one up and cut the file to the rows that are left."""
    if not missing or len(missing) == count:
        return
    first = missing[0]
    rows = np.memmap(output.file, np.uint8, "r+", shape=(count, output.row))
    kept = np.setdiff1d(np.arange(first, count), missing)
    for place, row in enumerate(kept, start=first):
        rows[place] = rows[row]
    rows.flush()
    del rows
    os.truncate(output.file, (count - len(missing)) * output.row)


def _decode_here(output: Output, chunks: deque[Chunk]) -> list[dict]:
    """The replies of this process itself."""
    replies = []
    with open(output.file, "r+b") as out:
        for start, places in chunks:
            replies.append(_decode.decode(out, start, places, output.form))
    return replies


def _decode_in_workers(
    output: Output, chunks: deque[Chunk], journal: Journal, report: Report
) -> list[dict]:
    """One thread per worker process hands it chunk after chunk; 2 processes decode 3 times what 2 threads do."""
    count = affordable(min(processors(), len(chunks)))
    replies: list[dict] = []
    with ThreadPoolExecutor(count) as threads:
        try:
            served = [threads.submit(_serve, output, chunks, journal, report) for _ in range(count)]
            for done in as_completed(served):
                replies += done.result()
        except BrokenPipeError as error:
            raise ChildProcessError(
                "an image-decoding process was ended; was memory short?"
            ) from error
        finally:
            chunks.clear()  # after an error or a signal the others stop at their next chunk
    return replies


def _serve(output: Output, chunks: deque[Chunk], journal: Journal, report: Report) -> list[dict]:
    """Replies of one worker to the chunks that it took."""
    replies = []
    with contextlib.closing(Worker("file", json.dumps(output.form), output.file)) as worker:
        for start, places in _take_all(chunks):
            _stopping.check()
            reply = worker.ask([start, places])
            _check(reply)
            journal.add(start, reply)
            report(reply["count"])
            replies.append(reply)
    return replies


def _take_all(chunks: deque[Chunk]) -> Iterator[Chunk]:
    """The chunks that are left, shared by all threads."""
    with contextlib.suppress(IndexError):  # empty
        while True:
            yield chunks.popleft()


def _check(reply: dict) -> None:
    """OtherSize, NoRange and OSError are the worker's."""
    if "other_size" in reply:
        raise OtherSize
    if "no_range" in reply:
        raise NoRange(reply["no_range"])
    if "error" in reply:
        raise OSError(reply["error"])
