"""Images as a command line names them, in the order of its words: files, folders, archives, patterns, or one table.

Nothing that is named is left out: what turns out to be no image is for the decoder to say.
"""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from ._archive import is_archive
from ._endings import is_table
from ._folders import Folder, existing_folder
from ._inventory import listed, say_left_out, unopened_images
from ._named_files import files_of
from ._places import Root
from ._table import Columns, read_table
from ._tree import Node

HERE = Path()


@dataclass(frozen=True)
class Given:
    """Images of one root, not read yet."""

    root: Root
    names: list[str]
    """Relative to root."""
    shown: list[str] | None = None
    """What people call them; None: by `prefix` and name."""
    prefix: str = ""
    tree: Node | None = None
    """Of a folder or archive: all that is in it."""

    def label(self, index: int) -> str:
        """What people call an image."""
        return self.prefix + self.names[index] if self.shown is None else self.shown[index]


def given(words: tuple[str, ...], columns: Columns) -> list[Given]:
    """The images of all words, in their order. FileNotFoundError or ValueError for a word that names none.

    columns: of a table, which has to be the only word.
    """
    if len(words) == 1 and _is_table_file(words[0]):
        return [_of_table(Path(words[0]).expanduser(), columns)]
    tables = [word for word in words if _is_table_file(word)]
    if tables:
        raise ValueError(
            f"{tables[0]} is a table of images, and has to be named alone: give the others in a command of their own"
        )
    parts: list[Given] = []
    for word in words:
        for path in _matches(word):
            part = _of_path(path)
            files = parts[-1] if parts else None
            if files is not None and part.root is HERE and files.root is HERE:
                files.names.extend(part.names)
            else:
                parts.append(part)
    return parts


def _is_table_file(word: str) -> bool:
    path = Path(word).expanduser()
    return path.is_file() and is_table(path.name)


def _matches(word: str) -> list[str]:
    """The path itself, or those of a pattern in sorted order. FileNotFoundError where there are none."""
    word = os.path.expanduser(word)
    if os.path.lexists(word):  # a link to nothing is a file that cannot be read
        return [word]
    paths = sorted(glob.glob(word, recursive=True))
    if not paths:
        raise FileNotFoundError(f"no file, folder or archive is called {word}")
    return paths


def _of_path(path: str) -> Given:
    if os.path.isdir(path) or is_archive(Path(path)):
        return _of_folder(path)
    return Given(HERE, [path])


def _of_folder(path: str) -> Given:
    """All images below a folder or in an archive, in the order of their names. ValueError without one."""
    folder: Folder = existing_folder(path)
    tree = Node(folder)
    tree.read_whole(tree)
    names = tree.image_names()
    if not names:
        unopened = unopened_images(tree)
        more = f" that can be read; left out: {listed(unopened)}" if unopened else ""
        raise ValueError(f"{path} holds no images{more}")
    say_left_out(tree, None, _why_unused)
    return Given(folder, names, prefix=f"{str(folder).rstrip('/')}/", tree=tree)


def _why_unused(name: str) -> str:
    raise AssertionError(f"{name} is an image and not used")


def _of_table(file: Path, columns: Columns) -> Given:
    """A row of the table for each image, whatever else the row says; names are as the table has them."""
    table = read_table(file)
    chosen = columns.chosen(table.source, list(table.columns))
    shown = table.rows(Columns(chosen.image, chosen.label, None), split=False).names
    found = files_of(file.parent, shown, "", table.source)
    if not any(found):
        raise FileNotFoundError(
            f"{file} names {len(found)} images, and none of them is below {file.parent}, e.g. {shown[0]}: put it above "
            "them, or name them by their paths"
        )
    names = [path or name for path, name in zip(found, shown, strict=True)]
    return Given(file.parent, names, shown=shown)
