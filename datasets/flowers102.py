"""Oxford Flowers-102 (Nilsback and Zisserman 2008): 8,189 photographs of flowers in 102 classes.

The official lists have 1,020 training, 1,020 validation and 6,149 test images. Training here means both of the first
(2,040), as the locality-guidance code has it; flowers102:1020 is the training list alone. The compact transformers
report on another split, class folders from Kaggle with 6,552 training and 818 validation images: flowers102:kaggle.
Numbers on one split say nothing about the other (the same recipe has 98 % there and 62 % here).
"""

from pathlib import Path

import filelock
import scipy.io
import torchvision

from ._archive import Inside
from ._folders import (
    Listing,
    above_train,
    by_class,
    by_list,
    class_names,
    evaluation_folder,
    existing_folder,
    image_set,
)
from ._images import ImageSet, check_split

ALIASES = ("flowers", "oxford_flowers102")
VARIANTS = {
    "flowers102:official": {"layout": "official"},
    "flowers102:1020": {"layout": "official", "lists": ("trnid",)},
    "flowers102:kaggle": {"layout": "kaggle"},
}
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as in the published recipes
STD = (0.229, 0.224, 0.225)
FOLDERS = (
    "",
    "flowers-102",
    "flowers",
    "flower_data",
    "dataset",
)  # torchvision's, published ones', Kaggle's
KAGGLE = "https://www.kaggle.com/c/oxford-102-flower-pytorch"


def load(
    root: str | Path,
    split: str,
    *,
    source_size: int = 64,
    download: bool = False,
    seed: int = 0,
    stream: bool | None = None,
    workers: int | None = None,
    layout: str | None = None,
    lists: tuple[str, ...] = ("trnid", "valid"),
) -> ImageSet:
    """jpg/ with imagelabels.mat and setid.mat (official), or train/<1..102>/ and valid/<1..102>/ (kaggle).

    layout=None: what root or a sub-folder holds, the official one first. `download` fetches the official one.
    """
    check_split(split)
    if download and layout != "kaggle" and not _found(root, layout):
        _download(Path(root).expanduser())
    return image_set(listing(root, split, layout, lists), source_size, (MEAN, STD), stream, workers)


def recognise(root: Path | Inside) -> str | None:
    found = _found(root, None)
    return f"flowers102:{found[0]}" if found else None


def listing(
    root: str | Path,
    split: str,
    layout: str | None = None,
    lists: tuple[str, ...] = ("trnid", "valid"),
) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    found = _found(root, layout)
    if not found:
        wanted = (
            ""
            if layout == "kaggle"
            else "jpg/ with imagelabels.mat and setid.mat (--download fetches them)"
        )
        other = "" if layout == "official" else f"train/<1..102>/ and valid/ (from {KAGGLE})"
        looked = " or ".join(filter(None, (wanted, other)))
        raise FileNotFoundError(
            f"there is no Flowers-102 in {existing_folder(root)}: looked for {looked}"
        )
    kind, place = found
    return (
        _kaggle(place, split)
        if kind == "kaggle"
        else _official(place, lists if split == "train" else ("tstid",))
    )


def _found(root: str | Path, layout: str | None) -> tuple[str, Path | Inside] | None:
    """The layout that root or a sub-folder has, and where."""
    try:
        root = above_train(existing_folder(root))
    except FileNotFoundError:
        return None
    for kind in ("official", "kaggle") if layout is None else (layout,):
        for place in (root / name if name else root for name in FOLDERS):
            if (place / "setid.mat").exists() if kind == "official" else _numbered(place):
                return kind, place
    return None


def _numbered(place: Path | Inside) -> bool:
    classes = class_names(place / "train")
    return len(classes) > 10 and all(
        name.isdigit() for name in classes
    )  # ten are digits, not flowers


def _official(place: Path | Inside, lists: tuple[str, ...]) -> Listing:
    if isinstance(place, Inside):
        raise ValueError(f"{place} holds Flowers-102's .mat files: unpack it and give the folder")
    images = [int(i) for name in lists for i in _matrix(place / "setid.mat", name)]
    labels = [int(label) for label in _matrix(place / "imagelabels.mat", "labels")]
    if not 1 <= min(images) <= max(images) <= len(labels):
        raise ValueError(
            f"{place / 'setid.mat'} names images that imagelabels.mat has no label for: fetch both again"
        )
    classes = tuple(str(label) for label in range(1, max(labels) + 1))
    names = [f"jpg/image_{image:05d}.jpg" for image in images]
    return by_list(
        place, names, [labels[image - 1] - 1 for image in images], classes, f"{place / 'setid.mat'}"
    )


def _matrix(file: Path, name: str):
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}, which belongs to Flowers-102's official layout"
        )
    try:
        return scipy.io.loadmat(file)[name].ravel()
    except (
        scipy.io.matlab.MatReadError,
        KeyError,
        ValueError,
        TypeError,
        OSError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"{file} is damaged, it gives no {name!r}: fetch it again") from error


def _kaggle(place: Path | Inside, split: str) -> Listing:
    """Classes in the order of their numbers, as timm sorts folders."""
    classes = tuple(sorted(class_names(place / "train"), key=int))
    if split == "train":
        return by_class(place / "train", classes)
    folder = evaluation_folder(place)
    if folder is None:
        raise FileNotFoundError(f"{place} has no valid/<1..102>/ beside train/")
    return by_class(folder, classes)


def _download(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".download.lock"):
            if not _found(root, "official"):
                torchvision.datasets.Flowers102(root, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(
            f"could not download Flowers-102 to {root}: {reason}; check the network and the disk"
        ) from error
