"""Images whose labels are in a table: one table for all, train.csv beside test.csv, or Hugging Face's metadata.csv.

A table is .csv, .tsv, .jsonl or .parquet. It lies above its images, and names them by their paths, or as Kaggle does
by names without endings.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ._archive import ArchiveFolder
from ._console import say_once
from ._data_set import DataSet
from ._endings import is_table
from ._folders import Folder, class_names, existing_folder
from ._named_files import files_of, located
from ._reader import Reader
from ._rows import (
    Parts,
    Rows,
    by_first_folder,
    by_split,
    split_name,
)
from ._table import Columns, read_table

METADATA = (
    "metadata"  # the stem of Hugging Face's tables, in the folder of all images or of a split's
)
# What competitions want to be given
IGNORED = ("sample_submission", "samplesubmission", "submission")
LOOKED_FOR = "a table of images (.csv, .tsv, .jsonl, .parquet): train.csv and test.csv, metadata.csv or a single one"
WHOLE = "whole"  # in place of a split: the one table says what is in which, or nothing does
SAMPLED = 20  # rows by which a table is recognised


@dataclass(frozen=True)
class Found:
    """A table."""

    file: Folder
    below: str = ""
    """From which folder on it names images, relative to the folder of all images: "" or "train/"."""

    @property
    def stem(self) -> str:
        """What the folder of its images may be called like."""
        return str(_split_in(self.file) or "")


def recognise(root: Folder, **columns: str) -> str | None:
    """By a table whose first rows name images that are there, and beside class folders have labels as well.

    ValueError where several such tables leave it open which to take, and folders of classes do not settle it.
    """
    if isinstance(root, Path) and root.is_file():
        return "table" if is_table(root.name) else None
    wanted = Columns.of(**columns)
    has_classes = len(class_names(root)) > 1
    try:
        folder, tables = _tables(root)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if any(_names_images(root, Found(file), wanted, quiet=True) for file in _table_files(root)):
            if not has_classes:
                raise
            say_once(f"not read as tables: {error}")
        return None
    found = tables.get("train") or next(iter(tables.values()))
    return "table" if _names_images(folder, found, wanted, quiet=has_classes) else None


def _names_images(folder: Folder, found: Found, wanted: Columns, quiet: bool) -> bool:
    """Whether a table names images of the folder. What keeps it from being read is said, unless quiet."""
    try:
        table = read_table(found.file)
        columns = wanted.chosen(table.source, list(table.columns))
        assert columns.image is not None
        names = [str(name) for name in table.columns[columns.image][:SAMPLED]]
        files = files_of(folder / found.below, names, found.stem, table.source)
    except (ValueError, FileNotFoundError) as error:
        if not quiet:
            say_once(f"not read as a table: {error}")
        return False
    # A list of files beside class folders is no reason to leave their classes
    has_labels = columns.label is not None or not class_names(folder)
    return has_labels and any(files)


def _parts(root: str | Path, columns: Columns) -> Parts:
    """The rows of all splits. root: the table, or the folder or archive that holds it.

    FileNotFoundError or ValueError, in one line, where the table does not say what it must.
    """
    folder, tables = _tables(_folder_or_table(root))
    if list(tables) == [WHOLE]:
        rows = _rows(folder, tables[WHOLE], columns, split=True)
        return Parts(folder, by_split(by_first_folder(rows)))
    parts = {name: _rows(folder, found, columns, split=False) for name, found in tables.items()}
    return Parts(folder, parts)


def _rows(folder: Folder, found: Found, columns: Columns, split: bool) -> Rows:
    """The rows of a table that have an image, their names relative to folder."""
    rows = located(folder / found.below, read_table(found.file).rows(columns, split), found.stem)
    names = [os.path.join(found.below, name) for name in rows.names]  # absolute ones stay
    return replace(rows, names=names)


# Where tables are


def _folder_or_table(root: str | Path) -> Folder:
    """The folder, the archive, or the table itself."""
    path = Path(root).expanduser()
    return path if path.is_file() and is_table(path.name) else existing_folder(root)


def _tables(root: Folder) -> tuple[Folder, dict[str, Found]]:
    """The folder of the images, and its tables: by split, or one as WHOLE. ValueError where it is not clear which."""
    if isinstance(root, Path) and root.is_file():
        name = _split_in(root)
        return root.parent, _pair(root.parent, root) if name else {WHOLE: Found(root)}
    files = _table_files(root)
    for file in files:
        if _stem(file) == METADATA:
            return root, {WHOLE: Found(file)}
    if any(_split_in(file) == "train" for file in files):
        return root, _pair(root)
    if len(files) > 1:
        names = " and ".join(file.name for file in files[:2])
        raise ValueError(f"{root} holds {len(files)} tables, {names}: give the path of one of them")
    if files:
        return root, {WHOLE: Found(files[0])}
    below = {}
    for name in class_names(root):
        for file in _table_files(root / name):
            split = split_name(name)
            if split and _stem(file) == METADATA:
                below[split] = Found(file, f"{name}/")
    if "train" in below:
        return root, below
    raise FileNotFoundError(f"there is no table in {root}: looked for {LOOKED_FOR}")


def _pair(folder: Folder, given: Folder | None = None) -> dict[str, Found]:
    """The tables of the splits, of which one may be given. ValueError where a split has several, or train has none."""
    tables: dict[str, Folder] = {}
    for file in _table_files(folder):
        split = _split_in(file)
        if split is None or (given is not None and split == _split_in(given)):
            continue
        before = tables.get(split)
        if before is not None and _is_plain(before) == _is_plain(file):
            raise ValueError(
                f"{folder} holds {before.name} and {file.name}: give the path of one of them, or remove it"
            )
        if before is None or _is_plain(file):
            tables[split] = file
    if given is not None:
        tables[str(_split_in(given))] = given
    if "train" not in tables:
        raise ValueError(
            f"{given} has no table of training images beside it: rename it if it holds all"
        )
    return {split: Found(file) for split, file in tables.items()}


def _table_files(folder: Folder) -> list[Folder]:
    """The tables in a folder that may name images, in sorted order."""
    if isinstance(folder, ArchiveFolder):
        names = [name for name in folder.files() if "/" not in name]
    else:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    files = [folder / name for name in sorted(names) if is_table(name) and name[0] != "."]
    return [file for file in files if _stem(file) not in IGNORED]


def _stem(file: Folder) -> str:
    """The file's name without its ending, in lower case."""
    return file.name.rpartition(".")[0].lower()


def _split_in(file: Folder) -> str | None:
    """The split that a table's name says: train.csv, train_labels.csv, labels-train.csv. None where it says none."""
    splits = {split_name(word) for word in re.split(r"[\W_]+", _stem(file))} - {None}
    return splits.pop() if len(splits) == 1 else None


def _is_plain(file: Folder) -> bool:
    """Whether the table's name is a split's and no more."""
    return split_name(_stem(file)) is not None


READER = Reader(_parts)

DATASET = DataSet(
    title="your own images with their labels in a table",
    layout="a `.csv`, `.tsv`, `.jsonl` or `.parquet` above its images, or its folder: `train.csv` and `test.csv`, "
    "`metadata.csv`, or one of any name",
    load=READER.load,
    listing=READER.listing,
    recognise=recognise,
    validation=READER.validation,
    unsplit=READER.unsplit,
    inventory=READER.inventory,
    own=True,
)
