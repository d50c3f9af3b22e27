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
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from tqdm import tqdm

from . import _decode
from ._places import Root, places, stamp
from ._workers import Worker, processors

FORMAT = 1  # raise it when the stored pixels change for the same files
CHUNK = 64  # images per order to a worker
NAMED = 10  # unreadable images that a message names


@dataclass(frozen=True)
class Cached:
    """Readable images of a list of files."""

    pixels: (
        torch.Tensor
    )  # uint8 (N, 3, S, S) over the memory map; changes to it stay in this process
    kept: torch.Tensor  # int64 (N,): which of the files each is
    mean: tuple[float, ...]  # per channel, in units of 0..1
    std: tuple[float, ...]


def decoded(root: Root, names: list[str], source_size: int, part: str = "") -> Cached:
    """The images root/name, from the cache or decoded into it now. `part` tells apart lists of one root.

    Images that are all square, of one side and not larger than source_size are stored as they are; otherwise each is
    resized (shorter side, bicubic, antialiased) and centre-cropped to source_size. Unreadable images are left out and
    named on standard error. ValueError when all are unreadable, OSError when the cache cannot be written.
    """
    folder = cache_folder()
    root = root.resolve()
    which = [str(root), part]
    stem = f"{root.name}-{_digest(os.fsencode(str(root)), part.encode(), source_size)[:8]}"
    entry = folder / f"{stem}-{_digest(stamp(root, names), source_size, FORMAT)[:24]}"
    with _explained(folder):
        found = _open(entry, len(names)) or _built(entry, stem, root, names, source_size, which)
    cached, skipped = found
    _name_skipped(root, names, skipped)
    return cached


def _built(
    entry: Path, stem: str, root: Root, names: list[str], source_size: int, which: list
) -> tuple[Cached, list]:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _lock(entry.parent / f"{stem}.lock"):
        if (
            _open(entry, len(names)) is None
        ):  # another process may have built it while this one waited
            _say_other_sides(entry.parent, root, which, source_size)
            _build(entry, stem, root, names, source_size, {"of": which, "source_size": source_size})
        return _open(entry, len(names))


def cache_folder() -> Path:
    return Path(os.environ.get("MULTICROP_CACHE") or "~/.cache/multicrop").expanduser()


def _say_other_sides(folder: Path, root: Root, which: list, source_size: int) -> None:
    """Say why files that were decoded before are decoded again. Pixels resized twice differ, so none are reused."""
    sides = []
    for path in folder.glob("*/meta.json"):
        with contextlib.suppress(OSError, ValueError):
            meta = json.loads(path.read_text())
            sides += [meta["source_size"]] if meta.get("of") == which else []
    if sides:
        known = " and ".join(f"--source_size {side}" for side in sorted(sides))
        print(
            f"{root} is decoded again for {source_size} px: the cache holds it for {known}",
            file=sys.stderr,
        )


def _digest(*parts: bytes | int) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, bytes) else str(part).encode()
        digest.update(b"%d:%s" % (len(part), part))
    return digest.hexdigest()


def _open(entry: Path, count: int) -> tuple[Cached, list] | None:
    """An entry and its unreadable images [[index, reason], ...]; None when it is absent or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        skipped, side = meta["skipped"], meta["side"]
        shape = (count - len(skipped), 3, side, side)
        if (entry / "pixels.bin").stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        mean, std = tuple(meta["mean"]), tuple(meta["std"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    kept = torch.ones(count, dtype=torch.bool)
    kept[[index for index, _ in skipped]] = False
    return Cached(_mapped(entry / "pixels.bin", shape), kept.nonzero()[:, 0], mean, std), skipped


def _mapped(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        return torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape))
    except OSError:  # Linux refuses a private writable map of more than the memory there is
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns that the array is not writable: nobody writes to it
            return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))


def _build(
    entry: Path, stem: str, root: Root, names: list[str], source_size: int, about: dict
) -> None:
    """Decode into a temporary folder and rename it to `entry`. The lock of `stem` is held."""
    for old in entry.parent.glob(
        f"{glob.escape(stem)}-*"
    ):  # outdated, damaged, or left by a killed process
        shutil.rmtree(old, ignore_errors=True)
    work = entry.parent / f"{stem}-building"
    work.mkdir()
    try:
        with places(root, names, work) as paths:
            meta = about | _decode_all(paths, work / "pixels.bin", source_size, f"decoding {root}")
        if len(meta["skipped"]) == len(names):
            index, reason = meta["skipped"][0]
            raise ValueError(
                f"none of the {len(names)} images in {root} is readable; {names[index]}: {reason}"
            )
        (work / "meta.json").write_text(json.dumps(meta))
        os.replace(work, entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _decode_all(paths: list[_decode.Place], out: Path, source_size: int, title: str) -> dict:
    """Write all images to `out` and return the entry's meta data."""
    side = common_side(paths, source_size)
    if side is not None:
        with contextlib.suppress(
            _decode.OtherSize
        ):  # the sampled headers were alike, another image is not
            return _decode_to(paths, out, side, True, title)
    return _decode_to(paths, out, source_size, False, title)


def common_side(paths: list[_decode.Place], source_size: int) -> int | None:
    """The side that a sample of the readable images shares, if it is at most source_size."""
    sides = {_decode.square_side(path) for path in paths[:: max(1, len(paths) // 64)]} - {None}
    return sides.pop() if len(sides) == 1 and max(sides) <= source_size else None


def _decode_to(paths: list[_decode.Place], out: Path, side: int, exact: bool, title: str) -> dict:
    _make_room(out, len(paths) * 3 * side * side)
    chunks = deque((start, paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK))
    with tqdm(
        total=len(paths), desc=title, unit=" images", file=sys.stderr, mininterval=0.5
    ) as bar:
        if len(chunks) <= 2:  # a worker takes longer to start
            with open(out, "r+b") as file:
                answers = [_decode.decode(file, start, part, side, exact) for start, part in chunks]
            bar.update(len(paths))
        else:
            answers = _in_workers(chunks, out, side, exact, bar.update)
    skipped = sorted(bad for answer in answers for bad in answer["bad"])
    _close_gaps(out, side, len(paths), [index for index, _ in skipped])
    return {
        "side": side,
        "skipped": skipped,
        **_statistics(answers, (len(paths) - len(skipped)) * side * side),
    }


def _make_room(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise OSError(f"{size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")
    with open(out, "wb") as file:
        file.truncate(size)


def _statistics(answers: list[dict], pixels: int) -> dict:
    """Mean and standard deviation per channel, in units of 0..1; unreadable images are black and add nothing."""
    sums = np.sum([answer["sums"] for answer in answers], 0)
    squares = np.sum([answer["squares"] for answer in answers], 0)
    mean = sums / max(pixels, 1) / 255
    std = np.sqrt(np.maximum(squares / max(pixels, 1) / 255**2 - mean**2, 0))
    return {"mean": mean.tolist(), "std": std.tolist()}


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


def _in_workers(
    chunks: deque, out: Path, side: int, exact: bool, report: Callable[[int], object]
) -> list[dict]:
    """One thread per worker process hands it chunk after chunk; 2 processes decode 3 times what 2 threads do."""
    count = min(processors(), len(chunks))
    arguments = ("exact" if exact else "fit", side, out)
    with ThreadPoolExecutor(count) as threads:
        try:
            served = [threads.submit(_serve, arguments, chunks, report) for _ in range(count)]
            return [answer for done in as_completed(served) for answer in done.result()]
        except BrokenPipeError as error:
            raise ChildProcessError(
                "an image-decoding process was ended; was memory short?"
            ) from error
        finally:
            chunks.clear()  # after an error or Ctrl-C the others stop at their next chunk


def _serve(arguments: tuple, chunks: deque, report: Callable[[int], object]) -> list[dict]:
    answers = []
    with contextlib.closing(Worker(*arguments)) as worker:
        for chunk in _taken(chunks):
            answers.append(_checked(worker.ask(chunk)))
            report(answers[-1]["count"])
    return answers


def _taken(chunks: deque) -> Iterator[tuple[int, list]]:
    with contextlib.suppress(IndexError):  # empty
        while True:
            yield chunks.popleft()


def _checked(answer: dict) -> dict:
    """OtherSize and OSError are the worker's."""
    if "other_size" in answer:
        raise _decode.OtherSize(answer["other_size"])
    if "error" in answer:
        raise OSError(answer["error"])
    return answer


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
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
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except ChildProcessError:
        raise
    except OSError as error:
        reason = error.strerror or error
        hint = "make room there, set MULTICROP_CACHE to another folder, or store nothing: --stream true"
        raise OSError(f"cannot use the image cache in {folder}: {reason}; {hint}") from error


def _name_skipped(root: Root, names: list[str], skipped: list) -> None:
    if not skipped:
        return
    shown = ", ".join(f"{names[index]} ({reason})" for index, reason in skipped[:NAMED])
    more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    noun = "image" if len(skipped) == 1 else "images"
    print(
        f"skipped {len(skipped)} unreadable {noun} of {len(names)} in {root}: {shown}{more}",
        file=sys.stderr,
    )
