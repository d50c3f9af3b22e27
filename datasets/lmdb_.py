"""Images in LMDB files train.lmdb and val.lmdb (or test.lmdb): two formats, neither of them unpickled.

Ours (multicrop pack, see _pack.py): keys 00000000, 00000001, ... hold the files' bytes, "labels" int32 little-endian
numbers, "about" JSON with the classes. That of the DHVT code: keys 0, 1, ... hold pyarrow-serialised (bytes, label);
there are no class names. The file is not called lmdb.py, the name of the package that _pack.py imports.
"""

import contextlib
import json
from pathlib import Path

import numpy as np

from ._arrow import image_and_label
from ._bytes import content
from ._data_set import DataSet
from ._folders import EVALUATION, Folder, Listing, image_set, some
from ._images import DEFAULTS, SPLITS, ImageSet, LoadOptions, check_split, like
from ._lmdb import Database, Records, Span
from ._pack import CHECKSUMS, CLASSES, FORMAT, HASH, LABELS, SEAL, hash_of, seal_of
from ._places import places

WITH_VALIDATION = (*SPLITS, "val")
NAMED = 5  # damaged images that a message names
MOST_CLASSES = 1 << 20  # a damaged label may be any number


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """root holds the files (or folders with data.mdb of their names), or is one of them.

    Mean and std are measured on the training images. ValueError when a file is damaged or of an unknown format.
    """
    check_split(split, WITH_VALIDATION)
    train = image_set(listing(root, "train"), options)
    if split == "train":
        return train
    images = listing(root, split, train.classes)
    constants = train.mean, train.std
    return image_set(images, like(options, train), constants, trains=False)


def listing(root: str | Path, split: str, classes: tuple[str, ...] | None = None) -> Listing:
    """The images of a split, not read yet. `classes` are those of the training file, if they are to be the same."""
    check_split(split, WITH_VALIDATION)
    return _images_of(_file(Path(root).expanduser(), split), classes)


def unsplit(root: str | Path) -> Listing | None:
    """All images of the only file: of a test file alone, or of a file of any name; None beside a training file."""
    path = Path(root).expanduser()
    files = []
    for split in SPLITS:
        with contextlib.suppress(FileNotFoundError, ValueError):
            files.append(_file(path, split))
    if not files and path.is_file():
        files = [path]
    return _images_of(files[0], None) if len(files) == 1 else None


def _images_of(file: Path, classes: tuple[str, ...] | None) -> Listing:
    database = Database(file)
    packed = CLASSES in database.spans
    images = _packed(database) if packed else _published(database, classes)
    if classes is not None and images.classes != classes:
        raise ValueError(f"{file} has other classes than the training file")
    return images


def has_validation(root: str | Path) -> bool:
    """Whether there is a split "val": val.lmdb beside test.lmdb."""
    folder = Path(root).expanduser()
    try:
        files = {split: _file(folder, split) for split in WITH_VALIDATION}
    except (FileNotFoundError, ValueError):
        return False
    return files["test"] != files["val"]


def recognise(root: Folder) -> str | None:
    """By the training file."""
    if not isinstance(root, Path):
        return None
    try:
        _file(root, "train")
    except (FileNotFoundError, ValueError):
        return None
    return "lmdb"


def verify(file: Path) -> str | None:
    """What was compared of a file; None where it has no checksums. ValueError where it is damaged."""
    database = Database(file)
    if CLASSES not in database.spans:
        _published(database, None)
        return None
    images = _packed(database)
    if HASH not in database.spans:
        return None
    damaged = []
    with places(images.root, images.names, None) as image_places:
        for name, place in zip(images.names, image_places, strict=True):
            try:
                content(place)
            except OSError:
                damaged.append(name)
    if damaged:
        raise ValueError(f"{file} is damaged in the images {some(damaged, NAMED)}: pack it again")
    if SEAL not in database.spans:
        return "the CRC-32 of each image"
    with open(file, "rb") as opened:
        seal = seal_of(opened, database.spans[SEAL][0])
    if seal != database[SEAL]:
        raise ValueError(f"{file} is damaged, though not in an image or a label: pack it again")
    return "the SHA-256 of all of it"


def _file(root: Path, split: str) -> Path:
    """The file of a split."""
    inside = root.is_file() or (root / "data.mdb").is_file()
    folder = root.parent if inside else root
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    names = {"train": ("train",), "test": EVALUATION, "val": EVALUATION[1:]}[split]
    for name in names:
        for path in (f"{name}.lmdb", f"{name}.lmdb/data.mdb", f"{name}/data.mdb"):
            if (folder / path).is_file():
                return folder / path
    if root.is_file():
        raise ValueError(
            f"{root} is a file, and not {names[0]}.lmdb: give the folder of train.lmdb and val.lmdb"
        )
    files = " or ".join(f"{name}.lmdb" for name in names)
    raise FileNotFoundError(f"there is no {files} in {folder}")


def _packed(database: Database) -> Listing:
    """The images of a file that multicrop pack wrote."""
    try:
        return _read_packed(database)
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{database.file} is damaged, or of another version: pack it again"
        ) from None


def _read_packed(database: Database) -> Listing:
    """ValueError, KeyError or TypeError where something is not as it was written."""
    metadata = json.loads(database[CLASSES])
    if metadata["format"] != FORMAT:
        raise ValueError
    count, classes = metadata["images"], tuple(metadata["classes"])
    spans: dict[str, tuple[int, ...]] = {
        f"{index:08d}": database.spans[b"%08d" % index] for index in range(count)
    }
    if HASH in database.spans:
        values = {key: database.read(key) for key in (CLASSES, LABELS, CHECKSUMS)}
        if database[HASH] != hash_of(values):
            raise ValueError
        checksums = np.frombuffer(database[CHECKSUMS], "<u4").tolist()
        spans = {
            name: (*span, checksum)
            for (name, span), checksum in zip(spans.items(), checksums, strict=True)
        }
    others = sum(key in database.spans for key in (CLASSES, LABELS, CHECKSUMS, HASH, SEAL))
    if len(database.spans) != count + others:
        raise ValueError  # a key has become another
    labels = None
    if LABELS in database.spans:
        labels = np.frombuffer(database[LABELS], "<i4").tolist()
        if len(labels) != count:
            raise ValueError
        if not set(labels) <= set(range(len(classes))):
            raise ValueError
    return Listing(Records(database.file, spans), list(spans), labels, classes)


def _published(database: Database, classes: tuple[str, ...] | None) -> Listing:
    """The images of a file in the format of the DHVT code."""
    try:
        spans, labels = _published_records(database)
    except ValueError as error:
        hint = "build it again from the image files: multicrop pack"
        raise ValueError(
            f"{database.file} is no database of images that can be read safely ({error}): {hint}"
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
    return Listing(Records(database.file, spans), list(spans), labels, classes)


def _published_records(database: Database) -> tuple[dict[str, Span], list[int]]:
    """Where each image's bytes lie, and its label. ValueError when a record is missing or anything else."""
    spans: dict[str, Span] = {}
    labels = []
    for number in range(len(database.spans.keys() - {b"__keys__", b"__len__"})):
        record = database.spans.get(b"%d" % number)
        if record is None:
            raise ValueError(f"image {number} is missing")
        offset, length, label = image_and_label(database.bytes, *record)
        spans[str(number)] = (offset, length)
        labels.append(label)
    return spans, labels


DATASET = DataSet(
    title="LMDB files",
    layout="`train.lmdb` and `test.lmdb`, as `multicrop pack` writes them, or `val.lmdb` of the DHVT code",
    load=load,
    listing=listing,
    recognise=recognise,
    validation=has_validation,
    unsplit=unsplit,
    own=True,
)
