"""The folder of the image cache: where it is, what its entries are called after, and who may build one."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock


def cache_folder() -> Path:
    """Where entries are; it need not exist yet."""
    return Path(os.environ.get("MULTICROP_CACHE") or "~/.cache/multicrop").expanduser()


def digest(*parts: bytes | int) -> str:
    """SHA-256 of the parts and of their lengths."""
    hashed = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        hashed.update(b"%d:%s" % (len(content), content))
    return hashed.hexdigest()


@contextlib.contextmanager
def one_builder(path: Path) -> Iterator[None]:
    """Only one process builds an entry; who has to wait is told why. path: the entry's lock file."""
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
