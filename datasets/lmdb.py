"""Images in LMDB files train.lmdb and val.lmdb (or test.lmdb): two formats, neither of them unpickled.

Ours (multicrop pack): keys 00000000, 00000001, ... hold the files' bytes, "labels" int32 little-endian
numbers, "about" JSON with the classes. That of the DHVT code: keys 0, 1, ... hold pyarrow-serialised (bytes, label);
there are no class names.
"""

import json
from pathlib import Path

import numpy as np

from ._archive import Inside
from ._arrow import image_and_label
from ._folders import EVALUATION, Listing, image_set
from ._images import ImageSet, check_split
from ._lmdb import Database, Records
from ._pack import pack as pack_one

FORMAT = "multicrop images 1"
MOST_CLASSES = 1 << 20  # a damaged label may be any number


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
) -> ImageSet:
    """root holds the files (or folders with data.mdb of their names), or is one of them.

    Mean and std are measured on the training images. ValueError when a file is damaged or of an unknown format.
    """
    check_split(split)
    train = image_set(listing(root, "train"), source_size, None, stream, workers)
    if split == "train":
        return train
    tested = listing(root, "test", train.classes)
    return image_set(tested, source_size, (train.mean, train.std), stream, workers)


def listing(root: str | Path, split: str, classes: tuple[str, ...] | None = None) -> Listing:
    check_split(split)
    file = _file(Path(root).expanduser(), split)
    database = Database(file)
    found = _ours(database) if b"about" in database.spans else _published(database, classes)
    if classes is not None and found.classes != classes:
        raise ValueError(f"{file} has other classes than the training file")
    return found


def pack(listings: dict[str, Listing], folder: Path) -> dict[str, int]:
    """Write {split: listing} as folder/<split>.lmdb; the bytes of each."""
    return {
        split: pack_one(found, folder / f"{split}.lmdb", FORMAT)
        for split, found in listings.items()
    }


def recognise(root: Path | Inside) -> str | None:
    try:
        return "lmdb" if isinstance(root, Path) and _file(root, "train") else None
    except (FileNotFoundError, ValueError):
        return None


def _file(root: Path, split: str) -> Path:
    """The file of a split."""
    folder = root.parent if root.is_file() or (root / "data.mdb").is_file() else root
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    names = ("train",) if split == "train" else EVALUATION
    for name in names:
        for path in (
            folder / f"{name}.lmdb",
            folder / f"{name}.lmdb" / "data.mdb",
            folder / name / "data.mdb",
        ):
            if path.is_file():
                return path
    if root.is_file():
        raise ValueError(
            f"{root} is a file, and not {names[0]}.lmdb: give the folder of train.lmdb and val.lmdb"
        )
    raise FileNotFoundError(
        f"there is no {' or '.join(f'{name}.lmdb' for name in names)} in {folder}"
    )


def _ours(database: Database) -> Listing:
    try:
        about = json.loads(database.read(b"about"))
        labels = (
            np.frombuffer(database.read(b"labels"), "<i4").tolist()
            if b"labels" in database.spans
            else None
        )
        if about["format"] != FORMAT:
            raise ValueError
        count, classes = about["images"], tuple(about["classes"])
        spans = {f"{i:08d}": database.spans[b"%08d" % i] for i in range(count)}
        if labels is not None and (
            len(labels) != count or not all(0 <= k < len(classes) for k in labels)
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{database.file} is damaged, or of another version: pack it again"
        ) from None
    return Listing(Records(database.file, spans), [*spans], labels, classes)


def _published(database: Database, classes: tuple[str, ...] | None) -> Listing:
    count = len(database.spans.keys() - {b"__keys__", b"__len__"})
    spans, labels = {}, []
    try:
        for number in range(count):
            offset, length, label = image_and_label(database.bytes, *database.spans[b"%d" % number])
            spans[str(number)] = (offset, length)
            labels.append(label)
    except (ValueError, KeyError) as error:
        why = (
            f"image {error.args[0].decode()} is missing"
            if isinstance(error, KeyError)
            else str(error)
        )
        hint = "build it again from the image files: multicrop pack"
        raise ValueError(
            f"{database.file} is no database of images that can be read safely ({why}): {hint}"
        ) from None
    if not labels or min(labels) < 0 or max(labels) >= MOST_CLASSES:
        raise ValueError(
            f"{database.file} holds no images with labels from 0 to {MOST_CLASSES - 1}"
        )
    if classes is None:
        classes = tuple(str(label) for label in range(max(labels) + 1))
    if max(labels) >= len(classes):
        raise ValueError(
            f"{database.file} has label {max(labels)}, and there are {len(classes)} classes"
        )
    return Listing(Records(database.file, spans), [*spans], labels, classes)
