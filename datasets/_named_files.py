"""Where the files are that a table names: by their paths, or by parts of them, or by names without endings."""

import os
from dataclasses import replace

from ._folders import Folder, image_names
from ._rows import Rows, keep

MOST_DEEP = 6  # folders of a name that may be missing in the table


def located(folder: Folder, rows: Rows, prefer: str) -> Rows:
    """The rows with names of files, relative to folder; those without a file are left out, which is said.

    FileNotFoundError when there is none of the files, other errors are those of files_of.
    """
    found = files_of(folder, rows.names, prefer, rows.source)
    if not any(found):
        raise FileNotFoundError(
            f"{rows.source} names {len(found)} images, and none of them is below {folder}, e.g. {rows.names[0]}: "
            "put it above them, or name them by their paths"
        )
    rows = keep(rows, lambda index: bool(found[index]), f"whose files are not below {folder}")
    files = [file for file in found if file]
    return replace(rows, names=files)


def files_of(folder: Folder, names: list[str], prefer: str, source: str) -> list[str | None]:
    """For each name a file, relative to folder; None where there is none.

    A name may be a path from the folder on, a path on another machine whose last parts are the same, or the file's name
    without its ending. prefer: what the folder's name begins with in which a file is looked for first where several
    have such a name. ValueError where a name, which source has, still stands for several.
    """
    names = [_slashes(name) for name in names]
    found: list[str | None] = [name if _is_file(folder, name) else None for name in names]
    if None not in found:
        return found
    index = _index(folder)
    for row, name in enumerate(names):
        found[row] = found[row] or _find(index, name, prefer, source)
    return found


def _slashes(name: str) -> str:
    """The name with / between its folders, and without . at its beginning."""
    name = name.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _is_file(folder: Folder, name: str) -> bool:
    return bool(name) and (folder / name).is_file()


def _index(folder: Folder) -> dict[str, list[str]]:
    """Every image file below, by the last parts of its path, with its ending and without."""
    index: dict[str, list[str]] = {}
    for file in image_names(folder):
        for key in _keys(file):
            index.setdefault(key, []).append(file)
    return index


def _keys(file: str) -> list[str]:
    """What may stand for a file: the last one, two, ... parts of its path."""
    parts = file.split("/")[-MOST_DEEP:]
    stem, _ = os.path.splitext(parts[-1])
    keys = []
    for first in range(len(parts)):
        keys.append("/".join(parts[first:]))
        keys.append("/".join([*parts[first:-1], stem]))
    return keys


def _find(index: dict[str, list[str]], name: str, prefer: str, source: str) -> str | None:
    """The file of a name: the one that shares most parts of its path. ValueError where several do."""
    parts = name.split("/")[-MOST_DEEP:]
    for first in range(len(parts)):
        files = index.get("/".join(parts[first:]), [])
        if len(files) > 1:
            files = [file for file in files if file.lower().startswith(prefer.lower())] or files
        if len(files) > 1:
            raise ValueError(
                f"{source}: {name} may be {files[0]} or {files[1]}: name images by their paths from its folder on"
            )
        if files:
            return files[0]
    return None
