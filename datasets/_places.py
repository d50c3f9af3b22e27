"""Where the bytes of a list of images are: in files of a folder, in an archive, or in a database."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._archive import ArchiveFolder
from ._bytes import Place
from ._lmdb import Records

Root = Path | ArchiveFolder | Records


def stamp(root: Root, names: list[str]) -> bytes:
    """Changes when an image does: of files their names, sizes and modification times."""
    if not isinstance(root, Path):
        return root.stamp(names)
    lines = []
    for name in names:
        stat = os.stat(root / name)
        lines.append(b"%s\0%d\0%d\n" % (os.fsencode(name), stat.st_size, stat.st_mtime_ns))
    return b"".join(lines)


@contextmanager
def places(root: Root, names: list[str], work: Path | None) -> Iterator[list[Place]]:
    """What the decoder opens for each image. `work` is a folder where a compressed archive may be unpacked meanwhile.

    ValueError when it would be needed and is None.
    """
    if isinstance(root, Path):
        yield [os.path.join(root, name) for name in names]
        return
    with root.places(names, work) as image_places:
        yield image_places
