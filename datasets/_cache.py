"""The image cache: files decoded once, in parallel, into one memory-mapped file of uint8 pixels.

It lies in $MULTICROP_CACHE or ~/.cache/multicrop. The key of an entry is a hash of the files' names, byte sizes and
modification times and of the stored side, so a folder that changes gives a new entry, and the old ones of the same
folder are removed. One of the same files, converted in another way, has a name of its own. An entry is built under a
lock, in a temporary folder that is renamed when complete, and stays where a signal or a kill ends the work.
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
from torch.nn.modules.utils import _pair

from . import _notes, _tiff
from ._bytes import is_allowed_now
from ._checksums import checksums
from ._console import say_once
from ._convert import AS_PUBLISHED, Conversion
from ._decode_all import decode_all
from ._journal import JOURNAL
from ._moving import take_name
from ._places import Root, places, stamp

FORMAT = 2  # raise it when the stored pixels change for the same files
PIXELS, META = "pixels.bin", "meta.json"
BUILDING = "-building"  # how the name of an unfinished entry ends
NAMED = 10  # unreadable images that a message names


@dataclass(frozen=True)
class Cached:
    """Readable images of a list of files."""

    pixels: torch.Tensor
    """uint8 (N, C, H, W) over the memory map; changes to it stay in this process."""
    kept: torch.Tensor
    """int64 (N,): which of the files each is."""
    mean: tuple[float, ...]
    """Per channel, in units of 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel, in units of 0..1."""
    skipped: list[tuple[int, str]]
    """(index, reason) of the files that are not readable."""
    conversion: Conversion
    """How files became pixels, nothing left open."""
    lines: list[str]
    """What was chosen, dropped or replaced, for people."""
    file: Path
    """What the map lies over."""
    checksums: tuple[int, ...] | None
    """Those of `file`, which have just been compared (_checksums.py); None of an older entry, which has none."""


@dataclass(frozen=True)
class Job:
    """A list of files and how they are to be decoded."""

    root: Root
    names: list[str]
    source_size: int | tuple[int, int]
    part: str
    conversion: Conversion

    @property
    def identity(self) -> list[str]:
        """What an entry says that it holds."""
        return [str(self.root), self.part]

    @property
    def title(self) -> str:
        """What people call it."""
        return _notes.title(self.root, self.part)

    def stem(self) -> str:
        """The part of an entry's name that stays when files change."""
        root = os.fsencode(str(self.root))
        digest = _digest(root, self.part.encode(), self.source_size)
        return f"{self.root.name}-{digest[:8]}"

    def key(self) -> str:
        """The part that changes with the files."""
        files = stamp(self.root, self.names)
        return _digest(files, self.source_size, FORMAT)[:24]

    def way(self) -> str:
        """The part that changes with what is asked of their conversion."""
        return _digest(json.dumps(self.conversion).encode())[:8]


def load_cached(
    root: Root,
    names: list[str],
    source_size: int | tuple[int, int],
    part: str = "",
    conversion: Conversion = AS_PUBLISHED,
) -> Cached:
    """The images root/name, from the cache or decoded into it first. `part` tells apart lists of one root.

    Images that are all of its shape (square where it is one number), of one size and not larger are stored as they are;
    otherwise each is brought to source_size (bicubic, antialiased) as the conversion says. Unreadable images are left
    out and named on standard error, as is what was chosen or dropped. ValueError when all are unreadable, OSError when
    the cache cannot be written.
    """
    folder = cache_folder()
    job = Job(root.resolve(), names, source_size, part, conversion)
    stem = f"{job.stem()}-{job.key()}"
    with _explain_errors(folder):
        cached = _find(folder, stem, job) or _build_or_wait(folder, stem, job)
    _notes.say(job.title, cached.lines)
    _name_skipped(job, cached.skipped)
    return cached


def cache_folder() -> Path:
    """Where entries are; it need not exist yet."""
    return Path(os.environ.get("MULTICROP_CACHE") or "~/.cache/multicrop").expanduser()


def _digest(*parts: bytes | int | tuple[int, int]) -> str:
    """SHA-256 of the parts and of their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(b"%d:%s" % (len(content), content))
    return digest.hexdigest()


# Reading an entry


def _find(folder: Path, stem: str, job: Job) -> Cached | None:
    """An entry of these files whose pixels are those that are asked for; None when there is none."""
    entries = sorted(folder.glob(f"{glob.escape(stem)}-*"))
    for entry in entries:
        if entry.name.endswith(BUILDING):
            continue
        cached = _open(entry, job)
        if cached is not None:
            return cached
    return None


def _open(entry: Path, job: Job) -> Cached | None:
    """An entry of the job's files; None when it is absent, damaged, or converted in another way."""
    file, count = entry / PIXELS, len(job.names)
    try:
        meta = json.loads((entry / META).read_text())
        stated_hash = meta.pop("hash", None)
        # Older versions have neither
        has_checksums = stated_hash is not None or "checksums" in meta
        damage = has_checksums and hash_of(meta) != stated_hash
        asked, conversion = _conversion(meta["asked"]), _conversion(meta["conversion"])
        if not _is_wanted(job.conversion, asked, conversion):
            return None
        notes = meta["notes"]
        if notes.get("needs tifffile") and _tiff.installed():
            return None
        skipped = [(index, reason) for index, reason in meta["skipped"]]
        shape = (count - len(skipped), conversion.channels, *_pair(meta["side"]))
        if file.stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        if any(is_allowed_now(reason) for _, reason in skipped):
            return None
        if damage or ("checksums" in meta and meta["checksums"] != checksums(file)):
            say_once(
                f"{job.title}: its entry of the image cache is damaged and made anew ({entry})"
            )
            return None
        mean, std = tuple(meta["mean"]), tuple(meta["std"])
        kinds = _notes.kinds_in(notes)
        measured, beyond = meta["measured"], meta["beyond_centre"]
        lines = _notes.conversion_lines(conversion, measured, beyond, kinds, _pair(job.source_size))
        lines += _notes.note_lines(notes)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    readable = torch.ones(count, dtype=torch.bool)
    readable[[index for index, _ in skipped]] = False
    kept = readable.nonzero()[:, 0]
    pixels = map_pixels(file, shape)
    compared = tuple(meta["checksums"]) if "checksums" in meta else None
    return Cached(pixels, kept, mean, std, skipped, conversion, lines, file, compared)


def hash_of(meta: dict) -> str:
    """Of what an entry says of itself."""
    return _digest(json.dumps(meta).encode())


def _conversion(values: list) -> Conversion:
    """As it was before it was written as JSON."""
    fit, channels, whole, *ranges = values  # older entries have no range of bytes
    return Conversion(
        fit, channels, whole, *(tuple(limits) if limits else None for limits in ranges)
    )


def _is_wanted(wanted: Conversion, asked: Conversion, made: Conversion) -> bool:
    """Whether an entry that was asked for as `asked` and became `made` has the pixels of what is wanted now."""
    if wanted in (asked, made):
        return True
    # Ranges of deeper files do not matter to files of 8 bits.
    without = wanted._replace(integers=None, floats=None)
    is_8_bit = made.integers is None and made.floats is None
    return is_8_bit and without in (asked._replace(integers=None, floats=None), made)


def map_pixels(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The uint8 pixels of an entry's file, not read yet."""
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
    say_once(f"skipped {count} unreadable {noun} of {len(job.names)} in {job.title}: {named}")


# Building an entry


def _build_or_wait(folder: Path, stem: str, job: Job) -> Cached:
    """The entry, built by this process or by another that is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f"{job.stem()}.lock"):
        # Another process may have built it while this one waited.
        cached = _find(folder, stem, job)
        if cached is None:
            _say_other_sides(folder, job)
            entry = folder / f"{stem}-{job.way()}"
            _build(entry, stem, job)
            cached = _open(entry, job)
    assert cached is not None
    return cached


def _say_other_sides(folder: Path, job: Job) -> None:
    """Say why files that were decoded before are decoded again. Pixels resized twice differ, so none are reused."""
    sides = set()
    for path in folder.glob(f"*/{META}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            meta = json.loads(path.read_text())
            if meta.get("of") == job.identity:
                sides.add(_pair(meta["source_size"]))
    wanted = _pair(job.source_size)
    sides.discard(wanted)
    if sides:
        flags = " and ".join(_flags(side) for side in sorted(sides))
        words = str(wanted[0]) if wanted[0] == wanted[1] else f"{wanted[0]} x {wanted[1]}"
        say_once(f"{job.root} is decoded again for {words} px: the cache holds it for {flags}")


def _flags(size: tuple[int, int]) -> str:
    """What would take an entry of this size."""
    height, width = size
    if height == width:
        return f"--source_size {height}"
    return f"--source_size {min(size)} with an --image_size of the shape of {height} x {width}"


def _build(entry: Path, stem: str, job: Job) -> None:
    """Decode into a temporary folder and rename it to `entry`. The lock of the job's stem is held.

    The temporary folder stays where a signal ends the work or this process: decoding goes on there.
    """
    # What is there of other files is outdated, or left by a killed process; `entry` itself is damaged.
    work = entry.with_name(f"{entry.name}{BUILDING}")
    for old in entry.parent.glob(f"{glob.escape(job.stem())}-*"):
        unfinished = old.name.endswith(BUILDING)
        if old == entry or not old.name.startswith(stem) or (unfinished and old != work):
            shutil.rmtree(old, ignore_errors=True)
    work.mkdir(exist_ok=True)
    for left in work.iterdir():
        if left.name in (PIXELS, JOURNAL):
            continue
        if left.is_dir():  # an archive that was unpacked meanwhile
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
    try:
        with places(job.root, job.names, work) as image_places:
            stored = decode_all(
                image_places, work / PIXELS, job.source_size, job.title, job.conversion
            )
        skipped = stored["skipped"]
        if len(skipped) == len(job.names):
            index, reason = skipped[0]
            example = f"{job.names[index]}: {reason}"
            raise ValueError(
                f"none of the {len(skipped)} images in {job.title} is readable; {example}"
            )
        asked = {"of": job.identity, "source_size": job.source_size, "asked": job.conversion}
        meta = {**asked, **stored, "checksums": checksums(work / PIXELS)}
        (work / META).write_text(json.dumps({**meta, "hash": hash_of(meta)}))
        (work / JOURNAL).unlink(missing_ok=True)
        take_name(work, entry)
    except Exception:
        shutil.rmtree(work, ignore_errors=True)
        raise


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
