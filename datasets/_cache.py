"""The image cache: files decoded once, in parallel, into one memory-mapped file of uint8 pixels.

It lies in $MULTICROP_CACHE or ~/.cache/multicrop. The key of an entry is a hash of the files' names, byte sizes and
modification times and of the stored side, so a folder that changes gives a new entry, and the old one of the same
folder is removed. An entry is built under a lock, in a temporary folder that is renamed when complete.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch

from ._decode_all import decode_all
from ._places import Root, places, stamp

FORMAT = 1  # raise it when the stored pixels change for the same files
NAMED = 10  # unreadable images that a message names


@dataclass(frozen=True)
class Cached:
    """Readable images of a list of files."""

    pixels: torch.Tensor
    """uint8 (N, 3, S, S) over the memory map; changes to it stay in this process."""
    kept: torch.Tensor
    """int64 (N,): which of the files each is."""
    mean: tuple[float, ...]
    """Per channel, in units of 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel, in units of 0..1."""
    skipped: list[tuple[int, str]]
    """(index, reason) of the files that are not readable."""


@dataclass(frozen=True)
class Job:
    """A list of files and how they are to be decoded."""

    root: Root
    names: list[str]
    source_size: int
    part: str

    @property
    def identity(self) -> list[str]:
        """What an entry says that it holds."""
        return [str(self.root), self.part]

    def stem(self) -> str:
        """The part of an entry's name that stays when files change."""
        root = os.fsencode(str(self.root))
        digest = _digest(root, self.part.encode(), self.source_size)
        return f"{self.root.name}-{digest[:8]}"

    def key(self) -> str:
        """The part that changes with the files."""
        files = stamp(self.root, self.names)
        return _digest(files, self.source_size, FORMAT)[:24]


def load_cached(root: Root, names: list[str], source_size: int, part: str = "") -> Cached:
    """The images root/name, from the cache or decoded into it first. `part` tells apart lists of one root.

    Images that are all square, of one side and not larger than source_size are stored as they are; otherwise each is
    resized (shorter side, bicubic, antialiased) and centre-cropped to source_size. Unreadable images are left out and
    named on standard error. ValueError when all are unreadable, OSError when the cache cannot be written.
    """
    folder = cache_folder()
    job = Job(root.resolve(), names, source_size, part)
    stem = job.stem()
    entry = folder / f"{stem}-{job.key()}"
    with _explain_errors(folder):
        cached = _open(entry, len(names)) or _build_or_wait(entry, stem, job)
    _name_skipped(job, cached.skipped)
    return cached


def cache_folder() -> Path:
    """Where entries are; it need not exist yet."""
    return Path(os.environ.get("MULTICROP_CACHE") or "~/.cache/multicrop").expanduser()


def _digest(*parts: bytes | int) -> str:
    """SHA-256 of the parts and of their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(b"%d:%s" % (len(content), content))
    return digest.hexdigest()


# Reading an entry


def _open(entry: Path, count: int) -> Cached | None:
    """An entry of `count` files; None when it is absent or damaged."""
    file = entry / "pixels.bin"
    try:
        meta = json.loads((entry / "meta.json").read_text())
        skipped = [(index, reason) for index, reason in meta["skipped"]]
        shape = (count - len(skipped), 3, meta["side"], meta["side"])
        if file.stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        mean, std = tuple(meta["mean"]), tuple(meta["std"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    readable = torch.ones(count, dtype=torch.bool)
    readable[[index for index, _ in skipped]] = False
    return Cached(_map(file, shape), readable.nonzero()[:, 0], mean, std, skipped)


def _map(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The pixels, not read yet."""
    try:
        return torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape))
    except OSError:  # Linux refuses a private writable map of more than the memory there is
        with warnings.catch_warnings():
            # torch warns that it is not writable: nobody writes to it
            warnings.simplefilter("ignore")
            return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))


def _name_skipped(job: Job, skipped: list[tuple[int, str]]) -> None:
    """Say which files are not readable, the first ones by name."""
    if not skipped:
        return
    count = len(skipped)
    noun = "image" if count == 1 else "images"
    named = ", ".join(f"{job.names[index]} ({reason})" for index, reason in skipped[:NAMED])
    if count > NAMED:
        named += f" and {count - NAMED} more"
    print(
        f"skipped {count} unreadable {noun} of {len(job.names)} in {job.root}: {named}",
        file=sys.stderr,
    )


# Building an entry


def _build_or_wait(entry: Path, stem: str, job: Job) -> Cached:
    """The entry, built by this process or by another that is at it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _lock(entry.parent / f"{stem}.lock"):
        # Another process may have built it while this one waited.
        cached = _open(entry, len(job.names))
        if cached is None:
            _say_other_sides(entry.parent, job)
            _build(entry, stem, job)
            cached = _open(entry, len(job.names))
    assert cached is not None
    return cached


def _say_other_sides(folder: Path, job: Job) -> None:
    """Say why files that were decoded before are decoded again. Pixels resized twice differ, so none are reused."""
    sides = []
    for path in folder.glob("*/meta.json"):
        with contextlib.suppress(OSError, ValueError):
            meta = json.loads(path.read_text())
            if meta.get("of") == job.identity:
                sides.append(meta["source_size"])
    if sides:
        flags = " and ".join(f"--source_size {side}" for side in sorted(sides))
        print(
            f"{job.root} is decoded again for {job.source_size} px: the cache holds it for {flags}",
            file=sys.stderr,
        )


def _build(entry: Path, stem: str, job: Job) -> None:
    """Decode into a temporary folder and rename it to `entry`. The lock of `stem` is held."""
    # What is there is outdated, damaged, or left by a killed process.
    for old in entry.parent.glob(f"{glob.escape(stem)}-*"):
        shutil.rmtree(old, ignore_errors=True)
    work = entry.parent / f"{stem}-building"
    work.mkdir()
    try:
        title = f"decoding {job.root}"
        with places(job.root, job.names, work) as image_places:
            stored = decode_all(image_places, work / "pixels.bin", job.source_size, title)
        skipped = stored["skipped"]
        if len(skipped) == len(job.names):
            index, reason = skipped[0]
            example = f"{job.names[index]}: {reason}"
            raise ValueError(
                f"none of the {len(skipped)} images in {job.root} is readable; {example}"
            )
        meta = {"of": job.identity, "source_size": job.source_size, **stored}
        (work / "meta.json").write_text(json.dumps(meta))
        os.replace(work, entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Only one process builds an entry; who has to wait is told why."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except filelock.Timeout:
        print(f"waiting for another process that fills the image cache ({path})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _explain_errors(folder: Path) -> Iterator[None]:
    """Say of an error that it is the cache's, and what can be done."""
    try:
        yield
    except ChildProcessError:
        raise
    except OSError as error:
        reason = error.strerror or error
        hint = "make room there, set MULTICROP_CACHE to another folder, or store nothing: --stream true"
        raise OSError(f"cannot use the image cache in {folder}: {reason}; {hint}") from error
