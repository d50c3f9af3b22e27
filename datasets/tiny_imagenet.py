"""Tiny-ImageNet (Stanford CS231n): 100,000 training and 10,000 validation images of 64 px in 200 classes.

The test split is `val`; the shipped `test` folder has no labels. Labels count the WordNet ids in sorted order.
"""

from pathlib import Path

from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    above_train,
    by_class,
    class_names,
    existing_folder,
    image_names,
    image_set,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

MEAN = (0.4802, 0.4481, 0.3975)
STD = (0.2770, 0.2691, 0.2821)
INNER = "tiny-imagenet-200"  # the folder in the archive
ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """The unpacked archive: train/<id>/images/, val/images/ with val_annotations.txt; or val/<id>/ as rearranged.

    root may also be its `train` folder, or the folder that holds tiny-imagenet-200. It cannot be downloaded here.
    """
    return image_set(listing(root, split), options, (MEAN, STD), trains=split == "train")


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    place = _place(root)
    classes = class_names(place / "train") or _ids(place)
    if split == "train":
        return by_class(place / "train")
    return _validation(place / "val", classes)


def recognise(root: Folder) -> str | None:
    """By the list of its classes."""
    for place in (above_train(root), root / INNER):
        if (place / "wnids.txt").exists():
            return "tiny_imagenet"
    return None


def _place(root: str | Path) -> Folder:
    """The folder that holds train/ and val/."""
    try:
        folder = above_train(existing_folder(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; Tiny-ImageNet is to be fetched by hand from {ARCHIVE}"
        ) from None
    for place in (folder, folder / INNER):
        if (place / "train").is_dir() or (place / "val").is_dir():
            return place
    raise FileNotFoundError(
        f"there is no Tiny-ImageNet in {folder}: looked for train/<id>/; get it from {ARCHIVE}"
    )


def _ids(place: Folder) -> tuple[str, ...]:
    """The classes when there is no training split."""
    file = place / "wnids.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"{place} has neither train/<id>/ folders nor wnids.txt, so the classes are unknown"
        )
    return tuple(sorted(file.read_text().split()))


def _validation(folder: Folder, classes: tuple[str, ...]) -> Listing:
    """The images of the evaluation split, in either layout."""
    existing_folder(folder)
    if set(class_names(folder)) & set(classes):
        return by_class(folder, classes)
    file = folder / "val_annotations.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has neither <id>/ folders of the training classes nor val_annotations.txt"
        )
    label_of = _labels_of_files(file, classes)
    names, labels, unlabelled = [], [], []
    for name in image_names(folder / "images"):
        path = f"images/{name}"
        label = label_of.get(Path(name).name)
        if label is None:
            unlabelled.append(path)
        else:
            names.append(path)
            labels.append(label)
    if unlabelled:
        raise ValueError(
            f"{file} gives no known class for {len(unlabelled)} images, e.g. {unlabelled[0]}"
        )
    return Listing(folder, names, labels, classes)


def _labels_of_files(annotations: Folder, classes: tuple[str, ...]) -> dict[str, int]:
    """The label of each file: lines of "<file> <id> ...", separated by tabs."""
    number = {name: label for label, name in enumerate(classes)}
    label_of = {}
    for line in annotations.read_text().splitlines():
        words = line.split("\t")
        if len(words) > 1 and words[1] in number:
            label_of[words[0]] = number[words[1]]
    return label_of


DATASET = DataSet(
    title="Tiny-ImageNet",
    layout="the official layout, with or without rearranged `val/`",
    load=load,
    listing=listing,
    recognise=recognise,
    aliases=("tiny-imagenet-200",),
)
