"""Data sets of Hugging Face's `datasets`: a folder that save_to_disk wrote, files of to_parquet, or a name on the hub.

--dataset hf --datapath FOLDER, or --dataset hf:OWNER/NAME (hf:OWNER/NAME:CONFIG), which the package fetches into a
cache of its own, and reads from there without a network from then on.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from . import parquet
from ._archive import Folder
from ._cache import cache_folder
from ._console import say_once
from ._data_set import DataSet
from ._embedded import Embedded, content, file_identity, named
from ._endings import PARQUET
from ._reader import Reader
from ._rows import (
    SPLIT_NAMES,
    Parts,
    Rows,
    by_split,
    split_name,
    text,
)
from ._table import Columns, one_line

# What save_to_disk writes beside the rows of one split, and above the folders of several
ONE, SEVERAL = "state.json", "dataset_dict.json"
BATCH = 64  # rows that are read at a time
WHERE = "a folder of save_to_disk or of .parquet files is expected, or --dataset hf:OWNER/NAME for one on the hub"


def recognise(root: Folder, **columns: str) -> str | None:
    """By what save_to_disk writes; files of to_parquet are recognised as such."""
    if not isinstance(root, Path):
        return None
    return "hf" if any((root / name).is_file() for name in (ONE, SEVERAL)) else None


def _parts(root: str | Path, columns: Columns, name: str | None = None) -> Parts:
    """The images of all splits. name: of a data set on the hub, in place of root."""
    if name:
        return _parts_of(_from_hub(name), Path(name), columns)
    path = Path(root).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}: {WHERE}")
    if path.is_file() and not path.name.lower().endswith(PARQUET):
        raise ValueError(f"{path} is a file: {WHERE}")
    if recognise(path):
        return _parts_of(_from_disk(path), path, columns)
    try:
        return parquet.parts(path, columns)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not of Hugging Face's datasets: {WHERE}") from None


# Reading


def _from_disk(folder: Path) -> Mapping[str, Any]:
    """Its splits by name. ValueError when it is damaged."""
    hugging_face = _package()
    try:
        return _splits(hugging_face.load_from_disk(str(folder)))
    except Exception as error:  # of the package, of Arrow, of JSON
        raise ValueError(
            f"{folder} cannot be read by Hugging Face's datasets: {one_line(error)}"
        ) from None


def _from_hub(name: str) -> Mapping[str, Any]:
    """Its splits by name, from the package's cache or fetched. OSError when that fails."""
    hugging_face = _package()
    owner_and_name, _, config = name.partition(":")
    try:
        return _splits(hugging_face.load_dataset(owner_and_name, config or None))
    except Exception as error:  # of the network, of the hub, of the package
        raise OSError(
            f"cannot get {name} from Hugging Face's hub: {one_line(error):.300}; check the name and the network"
        ) from None


def _splits(data: Any) -> Mapping[str, Any]:
    """The splits by name; a data set alone is its own name's, or the training split."""
    if isinstance(data, Mapping):
        return data
    return {str(data.split or "train"): data}


def _package() -> Any:
    """Hugging Face's datasets. It is imported by its name as a word, because a folder of ours is called so too."""
    missing = "--dataset hf needs the package datasets: pip install datasets"
    try:
        package = import_module("datasets")
    except ModuleNotFoundError:
        raise ValueError(missing) from None
    if not hasattr(package, "load_from_disk"):  # Python found the folder, which a checkout has
        raise ValueError(missing)
    return package


# Rows


def _parts_of(splits: Mapping[str, Any], path: Path, columns: Columns) -> Parts:
    """The images of both splits, of each of which the rows are in an order."""
    known = {name: data for name, data in splits.items() if split_name(name)}
    if len(splits) == 1:  # whatever it is called
        known = dict(splits)
    for name in splits:
        if name not in known:
            say_once(
                f"{path}: its split {name!r} is not used: it is none of {', '.join(SPLIT_NAMES)}"
            )
    first = next(iter(known.values()), None)
    if first is None:
        raise ValueError(f"{path} has no split called train")
    columns = _chosen(str(path), first.features, columns)
    rows = _rows(str(path), known, columns)
    root = _embedded(path, known, str(columns.image), rows.names)
    classes = _class_names(first.features, columns.label)
    return Parts(root, by_split(rows), classes)


def _chosen(source: str, features: Mapping[str, Any], columns: Columns) -> Columns:
    """The columns. ValueError where there are no images."""
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if columns.image is None and not images:
        raise ValueError(
            f"{source} has no column of images, it has {', '.join(features)}: --image_column NAME"
        )
    image = columns.image or images[0]
    chosen = Columns(image, columns.label, columns.split).chosen(source, list(features))
    chosen.say(source, list(features))
    return chosen


def _rows(source: str, splits: Mapping[str, Any], columns: Columns) -> Rows:
    """Of all splits, one after the other. An image's name is its split's and the row there."""
    names: list[str] = []
    labels: list[str] = []
    words: list[str] = []
    for split, data in splits.items():
        names += [f"{split}:{row}" for row in range(len(data))]
        if columns.label is not None:
            labels += _labels(source, data, columns.label)
        if columns.split is not None:
            words += [text(cell) for cell in data.with_format(None)[columns.split]]
        else:
            words += [split if len(splits) > 1 else "train"] * len(data)
    return Rows(source, names, labels or None, words)


def _labels(source: str, data: Any, column: str) -> list[str]:
    """The class of each row."""
    labels = [text(cell) for cell in data.with_format(None)[column]]
    classes = _class_names(data.features, column)
    return named(labels, classes, source) if classes else labels


def _class_names(features: Mapping[str, Any], label: str | None) -> tuple[str, ...] | None:
    """The classes in label order, where the data set names them."""
    names = getattr(features.get(str(label)), "names", None)
    return tuple(names) if names else None


# Bytes


def _embedded(path: Path, splits: Mapping[str, Any], image: str, names: list[str]) -> Embedded:
    """The images as the root of a listing."""
    rows = {name: row for row, name in enumerate(names)}
    files = [Path(file["filename"]) for data in splits.values() for file in data.cache_files]
    identity = b"%s %s" % (image.encode(), file_identity(files))
    data_sets = list(splits.values())
    return Embedded(
        path, rows, lambda wanted: _contents(data_sets, image, wanted), identity, cache_folder
    )


def _contents(
    data_sets: Sequence[Any], image: str, rows: Sequence[int]
) -> Iterator[bytes | str | None]:
    """The images of these rows, which ascend, counted over all splits."""
    first = 0
    for data in data_sets:
        inside = [row - first for row in rows if first <= row < first + len(data)]
        first += len(data)
        if inside:
            chosen = data.select_columns([image]).select(inside).with_format("arrow")
            for table in chosen.iter(BATCH):
                for cell in table.column(0):
                    yield content(cell.as_py())


READER = Reader(_parts)

DATASET = DataSet(
    title="Hugging Face's `datasets`",
    layout="a folder that `save_to_disk` wrote, or the files of `to_parquet`; `hf:<owner>/<name>` is one on the hub",
    load=READER.load,
    listing=READER.listing,
    recognise=recognise,
    validation=READER.validation,
    unsplit=READER.unsplit,
    own=True,
)
