"""Chaoyang (Zhu et al. 2021): 4,021 + 2,139 patches of colon slides of 512 px in four classes, with label noise.

Labels are lists in train.json and test.json: [{"name": "train/....JPG", "label": 0}, ...].
"""

import json
from pathlib import Path
from typing import Any

from ._data_set import DataSet
from ._folders import Folder, Listing, above_train, by_list, existing_folder, image_set
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipe
STD = (0.229, 0.224, 0.225)
HOME = "https://bupt-ai-cz.github.io/HSA-NRL/"


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """root/{train,test}.json and the images they name; root may also be the folder above `chaoyang`.

    FileNotFoundError when a list or an image is missing, ValueError when a list is none.
    """
    return image_set(listing(root, split), options, (MEAN, STD), trains=split == "train")


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    place = _place(root)
    file = place / f"{split}.json"
    if not file.exists():
        raise FileNotFoundError(
            f"there is no {file}, the list of Chaoyang's {split} images; it comes with them: {HOME}"
        )
    names, labels = _names_and_labels(file)
    return by_list(place, names, labels, CLASSES, str(file))


def recognise(root: Folder) -> str | None:
    """By its list of training images."""
    return "chaoyang" if (_place(root) / "train.json").exists() else None


def _place(root: str | Folder) -> Folder:
    """The folder of the lists."""
    folder = above_train(existing_folder(root))
    inner = folder / "chaoyang"
    return inner if inner.is_dir() else folder


def _names_and_labels(file: Folder) -> tuple[list[str], list[int]]:
    """What a list holds. ValueError when it is no such list."""
    names, labels = [], []
    try:
        for row in json.loads(file.read_text()):
            names.append(row["name"])
            labels.append(row["label"])
    except (ValueError, KeyError, TypeError):
        names = []
    if not names or not all(map(_is_name, names)) or not all(map(_is_label, labels)):
        raise ValueError(f'{file} is not a list of {{"name": file, "label": 0..3}}: fetch it again')
    return names, labels


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_label(value: Any) -> bool:
    return type(value) is int and value in range(len(CLASSES))  # true and false are no labels


DATASET = DataSet(
    title="Chaoyang",
    layout="`train.json`, `test.json` and the images they name",
    load=load,
    listing=listing,
    recognise=recognise,
)
