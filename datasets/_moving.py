"""Files and folders that take their name once they are whole."""

import os
from contextlib import suppress
from pathlib import Path


def take_name(work: Path, place: Path) -> None:
    """Rename, and have the new name on the disk, where the system can do that for folders."""
    os.replace(work, place)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # some network disks refuse it
                os.fsync(folder)
        finally:
            os.close(folder)
