"""Where the bytes of a list of images are: in files of a folder, in an archive, or in a database."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._archive import Inside
from ._decode import Place
from ._lmdb import Records

Root = Path | Inside | Records


def stamp(root: Root, names: list[str]) -> bytes:
    """Changes when an image does: of files their names, sizes and modification times."""
    if not isinstance(root, Path):
        return root.stamp(names)
    stats = (os.stat(root / name) for name in names)
    lines = (
        b"%s\0%d\0%d\n" % (os.fsencode(n), s.st_size, s.st_mtime_ns)
        for n, s in zip(names, stats, strict=True)
    )
    return b"".join(lines)


@contextmanager
def places(root: Root, names: list[str], work: Path | None) -> Iterator[list[Place]]:
    """What the decoder opens for each image. `work` is a folder where a compressed archive may be unpacked meanwhile.

    ValueError when it would be needed and is None.
    """
    if isinstance(root, Path):
        yield [os.path.join(root, name) for name in names]
    else:
        with root.places(names, work) as found:
            yield found
