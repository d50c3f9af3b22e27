"""Files that are written whole or not at all, and what a failed write says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path, reserve: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` once it is whole and on the disk: nobody meets half a file.

    A file of that name is kept as `reserve` if given. OSError in one line (disk full, no permission) leaves it as it
    was.
    """
    temporary = partial_of(path)
    try:
        with write_errors(path), open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with write_errors(path):
            if reserve and path.exists():
                os.replace(path, reserve)
            os.replace(temporary, path)
            synchronise(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The name under which a file is written before it takes its own."""
    return path.with_name(f".{path.name}.partial")


def synchronise(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that for folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network disks refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, after what a killed process may have left of its last one. OSError in one line."""
    with write_errors(path), open(path, "a+b") as file:
        text = f"{line}\n"
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                text = f"\n{text}"
        file.write(text.encode())


@contextmanager
def standard_error_to(path: Path) -> Iterator[None]:
    """What is said on standard error inside is added to a file. OSError in one line where its folder cannot be made."""
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be no UTF-8
    with (
        open(path, "a", encoding="utf-8", errors="backslashreplace") as file,
        redirect_stderr(file),
    ):
        yield


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """A failed write inside becomes an OSError that says which file it was for, why, and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise OSError(
            f"cannot write {path}: {_reason(error)}; what was saved before is intact: make room or mend "
            "permissions, then give the same command again"
        ) from None


def first_line(error: BaseException) -> str:
    """What an error says, its first line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error.__context__ or error)
