"""One process writes into a run folder or a file: a lock that the system drops when its owner dies, however it dies."""

import atexit
import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows, where run folders are not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
LOOK, PAUSE = 0.3, 0.05  # seconds: `is_held` takes the lock for a moment, which is no owner
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what network disks without locks answer
_held: dict[Path, BinaryIO] = {}  # of this process, which may open a folder again


def hold(
    folder: Path, log: Callable[[str], None] = print, flag: str = "--output_dir", file: str = ""
) -> None:
    """Lock a folder until `release`, or until this process ends. ValueError where another process holds it.

    What a process that was killed left is taken over, which is said. flag: what chooses another place. file: the one in
    the folder that alone is locked.
    """
    path, place = folder.resolve() / f"{file}{LOCK}", folder / file
    if fcntl is None or path in _held:
        return
    until = time.monotonic() + LOOK
    while True:
        locked = open(path, "a+b")  # noqa: SIM115 (open as long as the lock is held)
        locked.seek(0)
        owner = locked.read().decode(errors="replace").strip()
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            locked.close()
            if error.errno in NO_LOCKS:
                log(f"{place} is on a disk without locks: let no other run write into it")
                return
            if time.monotonic() < until:
                time.sleep(PAUSE)
                continue
            raise ValueError(
                f"{place} is in use by {owner or 'another process'}: wait for it, or choose another {flag}"
            ) from None
        if _is_still_there(locked, path):
            break
        locked.close()  # its owner removed it between our opening and our locking
    if owner:
        log(f"{place}: taken over from {owner}, which has ended")
    locked.truncate(0)
    locked.write(_description().encode())
    locked.flush()
    _held[path] = locked


def is_held(folder: Path) -> bool:
    """Whether a process, maybe this one, holds a folder; never where there are no locks."""
    path = folder.resolve() / LOCK
    if fcntl is None or not path.exists():
        return False
    if path in _held:
        return True
    with suppress(OSError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in NO_LOCKS
    return False


def release(folder: Path, file: str = "") -> None:
    """Let others write there; nothing happens where it is not held."""
    _release(folder.resolve() / f"{file}{LOCK}")


def _release(path: Path) -> None:
    file = _held.pop(path, None)
    if file is not None:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is locked, so that nobody's else is removed
        file.close()


def _description() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()}, since {started}"


def _is_still_there(file: BinaryIO, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


@atexit.register
def _release_all() -> None:
    for path in list(_held):
        _release(path)


def _forget() -> None:
    """A forked process that reads images must not keep the lock of a killed parent."""
    for file in _held.values():
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
