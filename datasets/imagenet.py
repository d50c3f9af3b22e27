"""ImageNet (ILSVRC 2012): 1,281,167 + 50,000 photographs in 1,000 classes, in folders of WordNet ids.

It is streamed from its files unless the machine can hold it (--stream true or false says it outright).
"""

import re
from pathlib import Path

from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    above_train,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
INNER = "ILSVRC/Data/CLS-LOC"  # as the archive of Kaggle unpacks


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """root/train/<id>/ and root/{val,validation}/<id>/. FileNotFoundError when they are not there."""
    return image_set(listing(root, split), options, (MEAN, STD), trains=split == "train")


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    place = _place(root)
    if not class_names(place / "train"):
        raise FileNotFoundError(
            f"there is no ImageNet in {place}: looked for train/<id>/ and val/<id>/"
        )
    if split == "test" and evaluation_folder(place) is None and (place / "val").is_dir():
        raise ValueError(
            f"{place / 'val'} has no class folders: sort its images into val/<id>/ first"
        )
    return split_by_class(place, split)


def recognise(root: Folder) -> str | None:
    """By a thousand classes that are WordNet ids."""
    classes = class_names(_place(root) / "train")
    if len(classes) != 1000:
        return None
    return "imagenet" if all(re.fullmatch(r"n\d{8}", name) for name in classes) else None


def _place(root: str | Folder) -> Folder:
    """The folder that holds train/ and val/."""
    folder = above_train(existing_folder(root))
    inner = folder / INNER
    return inner if inner.is_dir() else folder


DATASET = DataSet(
    title="ImageNet",
    layout="`train/<id>/`, `val/<id>/`",
    load=load,
    listing=listing,
    recognise=recognise,
    aliases=("imnet", "imagenet1k", "ilsvrc2012"),
)
