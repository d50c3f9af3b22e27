"""Checkpoint files: tensors and plain values only, written whole or not at all, the one before kept in reserve."""

import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"


def save(state: dict, path: Path, reserve: Path | None = None) -> None:
    """Write a checkpoint in place of one of that name, which is kept as `reserve` if given; errors as `replacing`'s."""
    with replacing(path, reserve) as file:
        torch.save(state, file)


def save_newest(state: dict, folder: Path) -> Path:
    """Save as the run's newest checkpoint; the one it replaces stays as the reserve."""
    save(state, folder / NEWEST, folder / PREVIOUS)
    return folder / NEWEST


@contextmanager
def replacing(path: Path, reserve: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` once it is whole and on the disk: nobody meets half a file.

    OSError in one line (disk full, no permission) leaves the file of that name as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with one_line(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with one_line(path):
            if reserve and path.exists():
                os.replace(path, reserve)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """A failed write inside becomes an OSError that says which file it was for, why, and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise OSError(
            f"cannot write {path}: {_reason(error)}; what was saved before is intact: make room or mend "
            "permissions, then give the same command again"
        ) from None


def load(path: Path) -> dict:
    """Read one of our checkpoints on the CPU. ValueError in one line where it is damaged or is not ours."""
    state = read(path)
    if not isinstance(state, dict) or "kind" not in state:
        raise ValueError(
            f"{path} is not a multicrop checkpoint; --pretrained_weights takes files of other programs"
        )
    return state


def read(path: Path, trust: bool = False):
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
            raise ValueError(f"{path} cannot be unpickled: {_first_line(error)}") from None
        raise ValueError(
            f"{path} holds Python objects beside tensors, and loading those can run code; "
            "if you trust where it comes from, add --trust_checkpoint"
        ) from None
    except (RuntimeError, EOFError, KeyError, IndexError, AttributeError, ImportError) as error:
        raise ValueError(
            f"{path} is damaged or needs another program to load: {_first_line(error)}"
        ) from None


def newest(folder: Path, say=print) -> tuple[dict, Path] | None:
    """The newest readable checkpoint of a run folder; a damaged one is reported and the one before it used.

    ValueError where checkpoints exist but none can be read: starting over would overwrite them.
    """
    paths = [folder / name for name in (NEWEST, PREVIOUS) if (folder / name).exists()]
    for path in paths:
        try:
            return load(path), path
        except ValueError as error:
            say(f"{error}; trying the one before it")
    if paths:
        raise ValueError(
            f"no readable checkpoint among {', '.join(map(str, paths))}: move them away to start anew"
        )
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a file's bytes. torch does not compare its own checksums when it reads."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
            return f"damaged, probably cut short ({_first_line(error)})"
        return f"damaged: {bad} does not match its checksum" if bad else None
    if start[:1] != b"\x80":  # how pickles start, among them torch files from before 1.6
        return "damaged or no checkpoint: it is neither a zip archive nor a pickle"
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or _first_line(error.__context__ or error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
