"""Time and memory of one rank with 10,000 to 10 million images, by simulation.

    python -m benchmarks.scale --out benchmarks/results/scale_cpu.json
    python -m benchmarks.scale --images 10000 --ranks 2

Prints one JSON object. Class folders are real and empty; the files in them are pretended, so that neither disk nor
decoding is measured. Each part runs in a process of its own. `cpu_seconds` are those of the processor, which compare on
a busy machine, too; memory is the peak above what the process had before. Parts:

- listing: what the first process of a node does: list both splits, hold the training split as streamed images do.
- received: what the other processes of the node do in place of it: unpack what the first one sends (`sent_mb`).
- order: the order of an epoch's images, and where this rank's part of a step is in it.
- sizes: a rank's share of the fingerprint, the sizes of its files (a real look at a file each).
- hash: the hash of all names and sizes, on rank 0.
- knn: the features of a rank's share of the bank (random numbers), and the search of all test images in it.
- merge: bringing together all ranks' neighbours of this rank's test images, and their votes.
"""

import contextlib
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._limited import follow
from benchmarks._machine import machine, status
from multicrop import cli
from multicrop.datasets import _folders, image_folder
from multicrop.datasets._names import Files, Names
from multicrop.datasets._stream import Streamed
from multicrop.engine import sampling
from multicrop.engine.batches import Batches
from multicrop.probes import knn

SIDE = 64  # of the pretended images, pixels
BATCH = 64  # images of a rank's step
MB = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """Measure what a rank needs for so many images."""

    images: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Training images."""
    ranks: int = 8
    """Ranks that share the work; one of them is measured at a time."""
    classes: int = 1000
    """Class folders of each split."""
    test: int = 1000
    """Test images of the k-NN, and of the test folder."""
    dim: int = 192
    """Width of the features."""
    k: int = 20
    """Neighbours."""
    seconds: float = 1200.0
    """Limit of a part."""
    part: str | None = None
    """Measure this alone, in this process, of the first of --images."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict:
    torch.set_num_threads(1)
    if r.part is not None:
        return run_part(r, r.part, r.images[0])
    rows = []
    for images in r.images:
        row: dict = {"images": images}
        for part in PARTS:
            row[part] = in_own_process(r, part, images)
            print(f"{images} images, {part}: {row[part]}", file=sys.stderr)
        rows.append(row)
    found = {
        "what": "time and memory of one rank, simulated",
        "settings": asdict(r),
        "machine": machine(torch.device("cpu"))
        | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "rows": rows,
    }
    if r.out:
        Path(r.out).write_text(json.dumps(found, indent=1) + "\n")
    return found


def in_own_process(r: Recipe, part: str, images: int) -> dict:
    """What a part prints; why it ended, where it printed nothing."""
    flags = {"part": part, "images": images, "ranks": r.ranks, "classes": r.classes}
    flags |= {"test": r.test, "dim": r.dim, "k": r.k}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    lines: list[str] = []
    ended = follow(
        ["-m", "benchmarks.scale", *words],
        lines.append,
        line_seconds=None,
        seconds=r.seconds,
        grace=1.0,
    )
    if ended.code != 0 or not lines:
        raise RuntimeError(f"{part} of {images} images: {ended.why}, {ended.messages}")
    return json.loads(lines[-1])


# Parts


class Measured(NamedTuple):
    """What a part does, and further numbers about what that gives. What it needs is made before."""

    work: Callable[[], object]
    numbers: Callable[[object], dict[str, float]] = lambda _: {}


def run_part(r: Recipe, part: str, images: int) -> dict:
    with tempfile.TemporaryDirectory() as folder, pretended_files(Path(folder), r, images):
        measured = PARTS[part](r, images, Path(folder))
        forget_peak()  # of what it needs
        before = memory("VmRSS")
        start, used = time.perf_counter(), time.process_time()
        made = measured.work()
        used = time.process_time() - used
        seconds = time.perf_counter() - start
        result = {"seconds": round(seconds, 3), "cpu_seconds": round(used, 3)}
        result["peak_mb"] = round(memory("VmHWM") - before, 1)
        return result | measured.numbers(made)


def memory(field: str) -> float:
    return status(os.getpid(), field)


def listing(r: Recipe, images: int, folder: Path) -> Measured:
    def work() -> Streamed:
        image_folder.listing(folder, "test")
        return streamed(folder)

    return Measured(work, lambda made: {"sent_mb": round(len(pickle.dumps(made)) / MB, 1)})


def received(r: Recipe, images: int, folder: Path) -> Measured:
    sent = folder / "sent"
    first = os.fork()  # another process, so that what it has freed is not at hand here
    if first == 0:
        sent.write_bytes(pickle.dumps(unlisted(r, images, folder)))
        os._exit(0)
    os.waitpid(first, 0)

    def work() -> object:
        with sent.open("rb") as file:
            return pickle.load(file)

    return Measured(work)


def order(r: Recipe, images: int, folder: Path) -> Measured:
    pixels = Streamed(range(images), range(images), None, SIDE, 1)  # type: ignore[arg-type]  # no image is read
    size = min(BATCH, images // r.ranks)

    def work() -> object:
        batches = Batches(
            pixels, None, size, seed=0, device=torch.device("cpu"), rank=r.ranks - 1, world=r.ranks
        )
        return batches._index(batches.steps_per_epoch, 0)  # the first step of the second epoch

    sampling.shuffled(10, 0, 0)  # loads what it needs
    return Measured(work)


def sizes(r: Recipe, images: int, folder: Path) -> Measured:
    pixels = unlisted(r, images, folder)
    return Measured(lambda: pixels.file_sizes(0, images // r.ranks))


def whole_hash(r: Recipe, images: int, folder: Path) -> Measured:
    pixels = unlisted(r, images, folder)
    return Measured(lambda: pixels.stamp(torch.arange(images)))


def search(r: Recipe, images: int, folder: Path) -> Measured:
    test = torch.randn(r.test, r.dim)
    knn.search(test, test[:2], 1)  # imports what it needs

    def work() -> object:
        bank = torch.randn(images // r.ranks, r.dim)
        return knn.Index(bank).nearest(test, r.k)

    return Measured(work)


def merge(r: Recipe, images: int, folder: Path) -> Measured:
    own, labels = r.test // r.ranks, torch.randint(r.classes, (images,))
    k = min(r.k, images // r.ranks)
    parts = []
    for _ in range(r.ranks):
        similarity = torch.rand(own, k).sort(descending=True).values
        parts.append((similarity, torch.randint(images, (own, k))))

    def work() -> object:
        similarity, image = knn.merge(parts, r.k)
        test_labels = torch.randint(r.classes, (own,))
        return knn.neighbour_places(similarity, labels[image], test_labels, [r.k], 0.07, r.classes)

    return Measured(work)


PARTS = {
    "listing": listing,
    "received": received,
    "order": order,
    "sizes": sizes,
    "hash": whole_hash,
    "knn": search,
    "merge": merge,
}


# What is pretended


def streamed(folder: Path) -> Streamed:
    """The training split, as streamed images hold it; no image is read."""
    listed = image_folder.listing(folder, "train")
    names, places = _folders._compact_places(listed)
    return Streamed(places, names, torch.tensor(listed.labels), SIDE, 1)


def unlisted(r: Recipe, images: int, folder: Path) -> Streamed:
    """The same, made without looking into folders."""
    share = images // r.classes
    listed = (f"{name}/{file}" for name in class_names(r) for file in file_names(name, share))
    names = Names(listed)
    labels = torch.arange(r.classes).repeat_interleave(share)
    return Streamed(Files(folder / "train", names), names, labels, SIDE, 1)


def class_names(r: Recipe) -> list[str]:
    return [f"n{label:08d}" for label in range(r.classes)]


def file_names(class_name: str, share: int) -> Iterator[str]:
    return (f"{class_name}_{number:07d}.JPEG" for number in range(share))


class Entry(NamedTuple):
    """Of os.scandir: a file."""

    name: str
    path: str

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return True


@contextlib.contextmanager
def pretended_files(root: Path, r: Recipe, images: int) -> Iterator[None]:
    """Class folders in root/train and root/test that seem to hold files, 30 letters each with their folder's name."""
    share = {"train": images // r.classes, "test": max(1, r.test // r.classes)}
    for split in share:
        for name in class_names(r):
            (root / split / name).mkdir(parents=True)
    scandir, stat = os.scandir, os.stat

    def pretended_scandir(folder=".") -> object:
        path = os.fspath(folder)
        split, _, name = str(path).removeprefix(f"{root}{os.sep}").partition(os.sep)
        if split not in share or not name:
            return scandir(folder)
        names = file_names(name, share[split])
        return contextlib.nullcontext(Entry(file, os.path.join(path, file)) for file in names)

    def pretended_stat(path, *arguments, **options) -> os.stat_result:
        pretended = isinstance(path, str) and path.endswith(".JPEG")
        return stat(root if pretended else path, *arguments, **options)

    os.scandir, os.stat = pretended_scandir, pretended_stat  # type: ignore[assignment]
    try:
        yield
    finally:
        os.scandir, os.stat = scandir, stat


def forget_peak() -> None:
    """Let the peak begin anew, where Linux lets a process do so; else peaks are too high by what was freed before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    cli.main(Recipe, measure)
