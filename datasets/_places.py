"""Where the bytes of a list of images are: in files of a folder, an archive, a database, or the rows of a table."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Union

from ._archive import ArchiveFolder
from ._bytes import Place
from ._embedded import Embedded
from ._lmdb import Records

Root = Union[Path, ArchiveFolder, Records, Embedded, "Several"]


class Several:
    """The images of several roots, as one root of a listing.

    title: what messages call them. parts: of each image's name the root that has it, and its name there.
    """

    name = "several"

    def __init__(self, title: str, parts: dict[str, tuple[Root, str]]):
        self.title, self.parts = title, parts

    def __str__(self) -> str:
        return self.title

    def resolve(self) -> "Several":
        resolved = {id(root): root.resolve() for root, _ in self.parts.values()}
        parts = {name: (resolved[id(root)], inner) for name, (root, inner) in self.parts.items()}
        return Several(self.title, parts)

    def stamp(self, names: list[str]) -> bytes:
        """Changes when an image of one of the roots does."""
        lines = []
        for root, rows in self._by_root(names):
            inner = [self.parts[names[row]][1] for row in rows]
            lines += [os.fsencode(str(root)), stamp(root, inner)]
        return b"\0".join(lines)

    @contextmanager
    def places(self, names: list[str], work: Path | None) -> Iterator[list[Place]]:
        """What the decoder opens for each name."""
        image_places: list[Place] = [""] * len(names)
        with ExitStack() as stack:
            for root, rows in self._by_root(names):
                inner = [self.parts[names[row]][1] for row in rows]
                # Each may unpack into a folder of its own
                own_work = work and Path(stack.enter_context(TemporaryDirectory(dir=work)))
                part = stack.enter_context(places(root, inner, own_work))
                for row, place in zip(rows, part, strict=True):
                    image_places[row] = place
            yield image_places

    def _by_root(self, names: list[str]) -> list[tuple[Root, list[int]]]:
        """Each root and the rows of `names` that it has."""
        of_root: dict[int, tuple[Root, list[int]]] = {}
        for row, name in enumerate(names):
            root, _ = self.parts[name]
            of_root.setdefault(id(root), (root, []))[1].append(row)
        return list(of_root.values())


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
