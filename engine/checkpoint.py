"""Checkpoint files: tensors and plain values only, written whole or not at all, the one before kept in reserve."""

import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .files import atomic_write, first_line
from .metadata import Checkpoint

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"


def save(checkpoint: Checkpoint, path: Path, reserve: Path | None = None) -> None:
    """Write in place of a file of that name, which is kept as `reserve` if given; errors as `atomic_write`'s."""
    with atomic_write(path, reserve) as file:
        torch.save(checkpoint.to_dict(), file)


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
    except (RuntimeError, EOFError, KeyError, IndexError, AttributeError, ImportError) as error:
        reason = first_line(error)
        raise ValueError(f"{path} is damaged or needs another program to load: {reason}") from None


def newest(folder: Path, log: Callable[[str], None] = print) -> tuple[Checkpoint, Path] | None:
    """The newest readable checkpoint of a run folder; a damaged one is reported and the one before it used.

    ValueError where checkpoints exist but none can be read: starting over would overwrite them.
    """
    paths = [folder / name for name in (NEWEST, PREVIOUS) if (folder / name).exists()]
    for path in paths:
        try:
            return load(path), path
        except ValueError as error:
            log(f"{error}; trying the one before it")
    if paths:
        listed = ", ".join(map(str, paths))
        raise ValueError(f"no readable checkpoint among {listed}: move them away to start anew")
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a file's bytes. torch does not compare its own checksums when it reads."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
            return f"damaged, probably cut short ({first_line(error)})"
        return f"damaged: {damaged} does not match its checksum" if damaged else None
    if start[:1] != b"\x80":  # how pickles start, among them torch files from before 1.6
        return "damaged or no checkpoint: it is neither a zip archive nor a pickle"
    return None
