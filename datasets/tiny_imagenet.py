"""Tiny-ImageNet (Stanford CS231n): 100,000 training and 10,000 validation images of 64 px in 200 classes.

The test split is `val`; the shipped `test` folder has no labels. Labels count the WordNet ids in sorted order.
"""

from pathlib import Path

from ._archive import Inside
from ._folders import (
    Listing,
    above_train,
    by_class,
    class_names,
    existing_folder,
    image_names,
    image_set,
)
from ._images import ImageSet, check_split

ALIASES = ("tiny-imagenet-200",)
MEAN = (0.4802, 0.4481, 0.3975)
STD = (0.2770, 0.2691, 0.2821)
ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


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
    """The unpacked archive: train/<id>/images/, val/images/ with val_annotations.txt; or val/<id>/ as rearranged.

    root may also be its `train` folder, or the folder that holds tiny-imagenet-200. It cannot be downloaded here.
    """
    return image_set(listing(root, split), source_size, (MEAN, STD), stream, workers)


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    place = _place(root)
    classes = class_names(place / "train") or _ids(place)
    return by_class(place / "train") if split == "train" else _validation(place / "val", classes)


def recognise(root: Path | Inside) -> str | None:
    places = (above_train(root), root / "tiny-imagenet-200")
    return "tiny_imagenet" if any((place / "wnids.txt").exists() for place in places) else None


def _place(root: str | Path) -> Path:
    try:
        root = above_train(existing_folder(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; Tiny-ImageNet is to be fetched by hand from {ARCHIVE}"
        ) from None
    for place in (root, root / "tiny-imagenet-200"):
        if (place / "train").is_dir() or (place / "val").is_dir():
            return place
    raise FileNotFoundError(
        f"there is no Tiny-ImageNet in {root}: looked for train/<id>/; get it from {ARCHIVE}"
    )


def _ids(place: Path) -> tuple[str, ...]:
    """The classes when there is no training split."""
    if not (place / "wnids.txt").is_file():
        raise FileNotFoundError(
            f"{place} has neither train/<id>/ folders nor wnids.txt, so the classes are unknown"
        )
    return tuple(sorted((place / "wnids.txt").read_text().split()))


def _validation(folder: Path, classes: tuple[str, ...]) -> Listing:
    existing_folder(folder)
    if set(class_names(folder)) & set(classes):
        return by_class(folder, classes)
    notes = folder / "val_annotations.txt"
    if not notes.is_file():
        raise FileNotFoundError(
            f"{folder} has neither <id>/ folders of the training classes nor val_annotations.txt"
        )
    ids = dict(line.split("\t")[:2] for line in notes.read_text().splitlines() if "\t" in line)
    index = {name: label for label, name in enumerate(classes)}
    names = [f"images/{name}" for name in image_names(folder / "images")]
    unknown = [name for name in names if ids.get(Path(name).name) not in index]
    if unknown:
        raise ValueError(
            f"{notes} gives no known class for {len(unknown)} images, e.g. {unknown[0]}"
        )
    return Listing(folder, names, [index[ids[Path(name).name]] for name in names], classes)
