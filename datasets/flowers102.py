"""Oxford Flowers-102 (Nilsback and Zisserman 2008): 8,189 photographs of flowers in 102 classes.

The official lists have 1,020 training, 1,020 validation and 6,149 test images. Training here means both of the first
(2,040), as the locality-guidance code has it; flowers102:1020 is the training list alone. The compact transformers
report on another split, class folders from Kaggle with 6,552 training and 818 validation images: flowers102:kaggle.
Numbers on one split say nothing about the other (the same recipe has 98 % there and 62 % here).
"""

from pathlib import Path

import filelock
import numpy as np
import scipy.io
import torchvision

from ._archive import ArchiveFolder
from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    above_train,
    by_class,
    by_list,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipes
STD = (0.229, 0.224, 0.225)
TRAIN = ("trnid", "valid")  # the lists of setid.mat that are the training split
# Where the images are: in root itself, or in the folders of torchvision, of published code and of Kaggle.
FOLDERS = ("", "flowers-102", "flowers", "flower_data", "dataset")
OFFICIAL = "jpg/ with imagelabels.mat and setid.mat (--download fetches them)"
KAGGLE = "train/<1..102>/ and valid/ (from https://www.kaggle.com/c/oxford-102-flower-pytorch)"
DAMAGE = (
    scipy.io.matlab.MatReadError,
    KeyError,
    ValueError,
    TypeError,
    OSError,
    NotImplementedError,
)


def load(
    root: str | Path,
    split: str,
    options: LoadOptions = DEFAULTS,
    *,
    layout: str | None = None,
    lists: tuple[str, ...] = TRAIN,
) -> ImageSet:
    """jpg/ with imagelabels.mat and setid.mat (official), or train/<1..102>/ and valid/<1..102>/ (kaggle).

    layout=None: what root or a sub-folder holds, the official one first. options.download fetches the official one.
    """
    check_split(split)
    if options.download and layout != "kaggle" and not _find(root, layout):
        _download(Path(root).expanduser())
    found = listing(root, split, layout, lists)
    return image_set(found, options, (MEAN, STD), trains=split == "train")


def listing(
    root: str | Path, split: str, layout: str | None = None, lists: tuple[str, ...] = TRAIN
) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    layout_and_place = _find(root, layout)
    if layout_and_place is None:
        wanted = {"official": OFFICIAL, "kaggle": KAGGLE}
        names = [layout] if layout else ["official", "kaggle"]
        raise FileNotFoundError(
            f"there is no Flowers-102 in {existing_folder(root)}: looked for "
            f"{' or '.join(wanted[name] for name in names)}"
        )
    layout, place = layout_and_place
    if layout == "kaggle":
        return _kaggle(place, split)
    return _official(place, lists if split == "train" else ("tstid",))


def recognise(root: Folder) -> str | None:
    """By its .mat files, or by classes 1 to 102: other sets have numbers for classes too."""
    layout_and_place = _find(root, None)
    if layout_and_place is None:
        return None
    layout, place = layout_and_place
    numbers = {str(number) for number in range(1, 103)}
    if layout == "kaggle" and set(class_names(place / "train")) != numbers:
        return None
    return f"flowers102:{layout}"


def _find(root: str | Folder, layout: str | None) -> tuple[str, Folder] | None:
    """The layout that root or a sub-folder has, and where."""
    try:
        folder = above_train(existing_folder(root))
    except FileNotFoundError:
        return None
    places = [folder / name if name else folder for name in FOLDERS]
    if layout != "kaggle":
        for place in places:
            if (place / "setid.mat").exists():
                return "official", place
    if layout != "official":
        for place in places:
            if _is_numbered(place):
                return "kaggle", place
    return None


def _is_numbered(place: Folder) -> bool:
    """Whether the classes are numbers. Ten are digits, not flowers."""
    classes = class_names(place / "train")
    return len(classes) > 10 and all(name.isdigit() for name in classes)


def _official(place: Folder, lists: tuple[str, ...]) -> Listing:
    """The images of some lists of setid.mat."""
    if isinstance(place, ArchiveFolder):
        raise ValueError(f"{place} holds Flowers-102's .mat files: unpack it and give the folder")
    sets = place / "setid.mat"
    images = np.concatenate([_matrix(sets, name) for name in lists]).astype(int)
    labels = _matrix(place / "imagelabels.mat", "labels").astype(int)
    if not 1 <= images.min() <= images.max() <= len(labels):
        raise ValueError(
            f"{sets} names images that imagelabels.mat has no label for: fetch both again"
        )
    names = [f"jpg/image_{image:05d}.jpg" for image in images]
    classes = tuple(str(label) for label in range(1, labels.max() + 1))
    labels_from_0 = labels[images - 1] - 1
    return by_list(place, names, labels_from_0.tolist(), classes, str(sets))


def _matrix(file: Path, name: str) -> np.ndarray:
    """A row of numbers in a .mat file. ValueError when it is damaged."""
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}, which belongs to Flowers-102's official layout"
        )
    try:
        return scipy.io.loadmat(file)[name].ravel()
    except DAMAGE as error:
        raise ValueError(f"{file} is damaged, it gives no {name!r}: fetch it again") from error


def _kaggle(place: Folder, split: str) -> Listing:
    """Classes in the order of their numbers, as timm sorts folders."""
    classes = tuple(sorted(class_names(place / "train"), key=int))
    if split == "train":
        return by_class(place / "train", classes)
    folder = evaluation_folder(place)
    if folder is None:
        raise FileNotFoundError(f"{place} has no valid/<1..102>/ beside train/")
    return by_class(folder, classes)


def _download(root: Path) -> None:
    """Fetch the official layout. OSError when that fails."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".download.lock"):
            if not _find(root, "official"):
                torchvision.datasets.Flowers102(root, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(
            f"could not download Flowers-102 to {root}: {reason}; check the network and the disk"
        ) from error


DATASET = DataSet(
    title="Flowers-102",
    layout="`jpg/` with `imagelabels.mat` and `setid.mat` (`--download` fetches them), or Kaggle's "
    "`train/<1..102>/`, `valid/`",
    load=load,
    listing=listing,
    recognise=recognise,
    aliases=("flowers", "oxford_flowers102"),
    variants={
        "flowers102:official": {"layout": "official"},
        "flowers102:1020": {"layout": "official", "lists": ("trnid",)},
        "flowers102:kaggle": {"layout": "kaggle"},
    },
)
