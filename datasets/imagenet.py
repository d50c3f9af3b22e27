"""ImageNet (ILSVRC 2012): 1,281,167 + 50,000 photographs in 1,000 classes, in folders of WordNet ids.

It is streamed from its files unless the machine can hold it (--stream true or false says it outright).
"""

from pathlib import Path

from ._folders import Listing, above_train, class_names, evaluation_folder, existing_folder, image_set, split_by_class
from ._images import ImageSet, check_split

ALIASES = ("imnet", "imagenet1k", "ilsvrc2012")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
INNER = Path("ILSVRC/Data/CLS-LOC")  # as the archive of Kaggle unpacks


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
    """root/train/<id>/ and root/{val,validation}/<id>/. FileNotFoundError when they are not there."""
    return image_set(_listing(root, split), source_size, (MEAN, STD), stream, workers)


def _listing(root: str | Path, split: str) -> Listing:
    check_split(split)
    root = above_train(existing_folder(root))
    place = root / str(INNER) if (root / str(INNER)).is_dir() else root
    if not class_names(place / "train"):
        raise FileNotFoundError(f"there is no ImageNet in {place}: looked for train/<id>/ and val/<id>/")
    if split == "test" and evaluation_folder(place) is None and (place / "val").is_dir():
        raise ValueError(f"{place / 'val'} has no class folders: sort its images into val/<id>/ first")
    return split_by_class(place, split)
