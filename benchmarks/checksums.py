"""Processor time that checksums take, as shares of an epoch: of streamed images, and of a cached set at a run's start.

    python -m benchmarks.checksums --out benchmarks/results/checksums_cpu.json

Prints one JSON object. `streamed`: JPEG files of 256 to 500 px, decoded at `source_size` as a decoding process does it,
in turns with and without checksums; the share is the time of the checksums, which are also timed alone, of the time
without. Comparing a batch's and writing the run's record of ten million images come beside. `cached`: `images` of
`side` px lie in a file that was read before, and are summed as on opening the cache, and as a run without those sums
would for its identity. An epoch's seconds are a run's step of `benchmarks.train_step`, times its steps.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks._machine import machine
from benchmarks.streaming import described, write
from multicrop import cli
from multicrop.datasets import _checksums, _decode
from multicrop.datasets._bytes import content_and_checksum
from multicrop.datasets._convert import Form
from multicrop.datasets._images import ImageSet
from multicrop.datasets._stream import Streamed
from multicrop.datasets._workers import CHUNK
from multicrop.engine.fingerprint import content_hashes
from multicrop.engine.image_record import ImageRecord

TRAIN_STEP = Path(__file__).parent / "results" / "train_step_cpu.json"


@dataclass(frozen=True)
class Recipe:
    """Time checksums."""

    files: int = 400
    """JPEG files that are decoded in a turn."""
    source_size: int = 256
    """Side in pixels to which they are brought."""
    repeats: int = 7
    """Turns."""
    images: int = 50_000
    """Images of the cached set."""
    side: int = 64
    """Their side in pixels."""
    recorded: int = 10_000_000
    """Images of a run's record."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "what": "checksums, processor seconds",
            "settings": asdict(r),
            "machine": machine(torch.device("cpu"))
            | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            "streamed": streamed(r, Path(folder)),
            "record": record(r, Path(folder)),
            "cached": cached(r, Path(folder) / "pixels"),
        }
    if r.out:
        Path(r.out).write_text(json.dumps(result, indent=1) + "\n")
    return result


def seconds(work: Callable[[], object]) -> float:
    """Of the processors, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def streamed(r: Recipe, folder: Path) -> dict:
    paths = sorted(map(str, write(folder, r.files).glob("*.jpg")))
    form = Form((r.source_size, r.source_size), exact=False)
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]

    def decode(checked: bool) -> None:
        for chunk in chunks:
            _decode.decode_rows(chunk, form, checked)

    def checksums() -> None:
        for path in paths:
            content_and_checksum(path)

    def read() -> None:
        for path in paths:
            Path(path).read_bytes()

    pixels, batch = Streamed(paths, paths, None, r.source_size, 1), 50
    pixels.compare_with(np.ones(len(paths), np.uint32))
    numbers, same = list(range(batch)), [1] * batch

    def compare() -> None:
        for _ in range(len(paths) // batch):
            pixels._compare(numbers, same)

    works = {
        "decoded": lambda: decode(False),
        "decoded and summed": lambda: decode(True),
        "read and summed": checksums,
        "read": read,
        "compared": compare,
    }
    turns: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(r.repeats + 1):
        for name, work in works.items():
            took = seconds(work)
            if turn:  # the first reads the files from the disk
                turns[name].append(took)
    medians = {name: statistics.median(values) for name, values in turns.items()}
    pairs = zip(turns["decoded and summed"], turns["decoded"], strict=True)
    ratios = [summed / plain - 1 for summed, plain in pairs]
    alone = medians["read and summed"] - medians["read"] + medians["compared"]
    return {
        "files": described(paths),
        "microseconds_per_image": {
            name: round(value / len(paths) * 1e6, 1) for name, value in medians.items()
        },
        "share_of_decoding": round(statistics.median(ratios), 4),
        "share_by_turn": [round(ratio, 4) for ratio in sorted(ratios)],
        "share_of_sums_and_comparison_timed_alone": round(alone / medians["decoded"], 4),
    }


class Images:
    """What a record asks of streamed images; `new`: which were read since the last save, and their checksums."""

    def __init__(self, count: int):
        self.count = count
        self.new = np.empty(0, np.uint32), np.empty(0, np.uint32)

    def __len__(self) -> int:
        return self.count

    def name_of(self, number: int) -> str:
        return str(number)

    def file_times(self, start: int, stop: int) -> torch.Tensor:
        return torch.arange(start, stop)

    def compare_with(self, checksums: np.ndarray) -> None:
        self.checksums = checksums

    def new_checksums(self) -> tuple[np.ndarray, np.ndarray]:
        return self.new


def record(r: Recipe, folder: Path) -> dict:
    images = Images(r.recorded)
    begun = seconds(lambda: ImageRecord(folder, images, "x", None))
    kept = ImageRecord(folder, images, "x", None)
    images.new = np.arange(r.recorded, dtype=np.uint32), np.ones(r.recorded, np.uint32)
    saved = seconds(kept.write)
    images.new = np.empty(0, np.uint32), np.empty(0, np.uint32)
    return {
        "images": r.recorded,
        "bytes_per_image": round(kept.path.stat().st_size / r.recorded, 2),
        "begun": round(begun, 2),
        "all_read_and_saved": round(saved, 2),
        "saved_with_none_new": round(seconds(kept.write), 3),
        "resumed": round(seconds(lambda: ImageRecord(folder, images, "x", r.recorded)), 2),
    }


def cached(r: Recipe, file: Path) -> dict:
    shape = (r.images, 3, r.side, r.side)
    numbers = np.random.default_rng(0)
    with open(file, "wb") as out:
        for start in range(0, r.images, 1000):
            part = min(1000, r.images - start)
            out.write(numbers.integers(0, 256, (part, *shape[1:]), np.uint8).tobytes())
    pixels = torch.from_numpy(np.memmap(file, np.uint8, "c", shape=shape))
    sums = tuple(_checksums.checksums(file))
    plain = ImageSet(pixels, None, (), (0.5,) * 3, (0.2,) * 3, file=file)
    summed = ImageSet(pixels, None, (), (0.5,) * 3, (0.2,) * 3, file=file, checksums=sums)
    works = {
        "sums on opening": lambda: _checksums.checksums(file),
        "hash of all pixels": lambda: content_hashes(plain),
        "the same from the sums": lambda: content_hashes(summed),
    }
    took = {
        name: statistics.median(seconds(work) for _ in range(r.repeats))
        for name, work in works.items()
    }
    step = json.loads(TRAIN_STEP.read_text())
    batch = step["settings"]["batch_size"]
    epoch = step["ms_per_step"] / 1000 * (r.images // batch)
    return {
        "megabytes": round(file.stat().st_size / 1e6),
        "seconds": {name: round(value, 4) for name, value in took.items()},
        "epoch_seconds": round(epoch),
        "share_of_an_epoch": {name: round(value / epoch, 6) for name, value in took.items()},
    }


if __name__ == "__main__":
    cli.main(Recipe, measure)
