"""Checkpoint files: tensors and plain values only, written whole or not at all, the one before kept in reserve.

A file ends with the hash of all of it, as the comment of the zip archive that torch writes: torch does not compare the
archive's own checksums, and those do not cover its directory.
"""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .files import atomic_write, first_line, partial_of, write_errors
from .metadata import Checkpoint

NEWEST, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint_previous.pt", "checkpoint_damaged.pt"
HASH = b"multicrop sha256 "
COMMENT_BYTES = len(HASH) + hashlib.sha256().digest_size * 2
# How an archive ends: a record of so many bytes, the last of which are the length of the comment that follows
END_RECORD, END_BYTES, LENGTH_BYTES = b"PK\5\6", 22, 2
LONGEST_END = END_BYTES + 0xFFFF
PIECE = 1 << 20  # bytes
MOST_UNPACKED = 10  # times a file's bytes; torch packs nothing, and weights packed by others shrink by a tenth or so


def save(checkpoint: Checkpoint, path: Path, reserve: Path | None = None) -> None:
    """Write in place of a file of that name, which is kept as `reserve` if given; errors as `atomic_write`'s."""
    with atomic_write(path, reserve) as file:
        torch.save(checkpoint.to_dict(), file)
        _seal(file)


def save_newest(checkpoint: Checkpoint, folder: Path) -> Path:
    """Save as the run's newest checkpoint; the one that it replaces stays as the reserve."""
    save(checkpoint, folder / NEWEST, folder / PREVIOUS)
    return folder / NEWEST


def load(path: Path) -> Checkpoint:
    """Read one of our checkpoints on the CPU. ValueError in one line where it is damaged or is not ours."""
    content = read(path)
    try:
        return Checkpoint.from_dict(content)
    except ValueError as error:
        raise ValueError(
            f"{path} is {error}; --pretrained_weights takes files of other programs"
        ) from None


def step_of(path: Path) -> int:
    """The step at which one of our checkpoints was saved; its tensors are neither read nor compared.

    ValueError where it does not say.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return Checkpoint.from_dict(content).metadata.step
    except Exception as error:
        raise ValueError(f"{path} does not say its step: {first_line(error)}") from None


def read(path: Path, trust: bool = False) -> Any:
    """Whatever a .pt/.pth file holds; with trust=False only tensors and plain values (no code can run)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    problem = _damage(path)
    if problem:
        raise ValueError(f"{path} is {problem}")
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust:
            raise ValueError(f"{path} cannot be unpickled: {first_line(error)}") from None
        raise ValueError(
            f"{path} holds Python objects beside tensors, and loading those can run code; "
            "if you trust where it comes from, add --trust_checkpoint"
        ) from None
    except OSError:
        raise
    except Exception as error:  # damaged bytes can make torch and pickle stumble over anything
        reason = first_line(error)
        raise ValueError(f"{path} is damaged or needs another program to load: {reason}") from None


def newest(folder: Path, log: Callable[[str], None] = print) -> tuple[Checkpoint, Path] | None:
    """The newest readable checkpoint of a run folder; a damaged one is reported and the one before it used.

    A process that is killed between two renames leaves one that is whole under another name. ValueError where
    checkpoints exist but none can be read: starting over would overwrite them.
    """
    last, unnamed, previous = folder / NEWEST, partial_of(folder / NEWEST), folder / PREVIOUS
    there = []
    for path in (last, unnamed, previous):
        if not path.exists():
            continue
        try:
            return load(path), path
        except FileNotFoundError:
            continue  # a run that goes on has just renamed it
        except ValueError as error:
            if path != unnamed:  # half a file is what any killed process leaves there
                there.append(str(path))
                log(f"{error}; trying the one before it")
    if there:
        listed = ", ".join(there)
        raise ValueError(f"no readable checkpoint among {listed}: move them away to start anew")
    return None


def take_up(folder: Path, used: Path, log: Callable[[str], None] = print) -> Path:
    """Prepare a run folder for the next save: `used` is what `newest` has found there. Where it is then.

    A damaged newest checkpoint is renamed, or it would become the reserve in place of a good one.
    """
    last = folder / NEWEST
    if used == last:
        return used
    with write_errors(last):
        if last.exists():
            os.replace(last, folder / DAMAGED)
            log(f"{last} is damaged: kept as {DAMAGED}")
        if used == partial_of(last):
            os.replace(used, last)
            log(f"{last} had been saved whole, but not named: it is now")
            return last
    return used


def verify(path: Path) -> str | None:
    """What of a file's bytes was compared; None where it has no checksum. ValueError where it is damaged."""
    problem = _damage(path)
    if problem:
        raise ValueError(f"{path} is {problem}")
    with open(path, "rb") as file:
        if _is_sealed(file):
            return "the SHA-256 of all of it"
        file.seek(0)
        return "the CRC-32 of its members" if file.read(2) == b"PK" else None


def fingerprint(path: Path) -> str:
    """What tells a file from others of its step: its hash, or its size where it has none."""
    with open(path, "rb") as file:
        if _is_sealed(file):
            return file.read().decode(errors="replace")
        return f"{file.seek(0, os.SEEK_END)} bytes"


# Damage


def _seal(file: BinaryIO) -> None:
    """Add the hash of what a file that is open for writing and reading holds, as its archive's comment."""
    end = file.seek(-LENGTH_BYTES, os.SEEK_END)
    comment = HASH + _hash(file, end).encode()
    file.seek(end)
    file.write(len(comment).to_bytes(LENGTH_BYTES, "little") + comment)


def _hash(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first so many bytes: all but the comment and its length."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (piece := file.read(min(PIECE, size))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def _damage(path: Path) -> str | None:
    """What is wrong with a file's bytes."""
    with open(path, "rb") as file:
        start = file.read(2)
        if start == b"PK":
            return _damage_by_hash(file) if _is_sealed(file) else _damage_by_members(file)
    if start[:1] != b"\x80":  # how pickles start, among them torch files from before 1.6
        return "damaged or no checkpoint: it is neither a zip archive nor a pickle"
    return None


def _is_sealed(file: BinaryIO) -> bool:
    """Whether a file ends with a hash of ours; others' files and older ones do not."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - COMMENT_BYTES))
    return file.read(len(HASH)) == HASH


def _damage_by_hash(file: BinaryIO) -> str | None:
    end = file.seek(-COMMENT_BYTES - LENGTH_BYTES, os.SEEK_END)
    length, comment = file.read(LENGTH_BYTES), file.read()
    if _hash(file, end).encode() != comment[len(HASH) :] or int.from_bytes(length, "little") != len(
        comment
    ):
        return "damaged: its content does not match its hash"
    return None


def _damage_by_members(file: BinaryIO) -> str | None:
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MOST_UNPACKED * size:
                return f"no checkpoint: its {size} bytes would unpack to {unpacked}"
            if len(archive.comment) == COMMENT_BYTES:  # torch's own have no comment
                return "damaged in the hash at its end"
            damaged = archive.testzip()
            cut = _ends_early(file)
    except Exception as error:  # a damaged directory can make zipfile stumble over anything
        return f"damaged, probably cut short ({first_line(error)})"
    if damaged or cut:
        return "damaged: " + (f"{damaged} does not match its checksum" if damaged else "cut short")
    return None


def _ends_early(file: BinaryIO) -> bool:
    """Whether an archive's comment, of ours the hash, is shorter than its end record says; zipfile does not mind."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_END))
    end = file.read()
    record = end[end.rfind(END_RECORD) :]
    length = record[END_BYTES - LENGTH_BYTES : END_BYTES]
    return len(record) - END_BYTES < int.from_bytes(length, "little")
