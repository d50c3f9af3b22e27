"""CINIC-10 (Darlow et al. 2018): three times 90,000 images of 32 px in 10 classes, as PNG files in class folders.

The test split is `test`. The published two-stage code evaluated on `valid` (renamed `val`) and never used `test`; to
compare with it, give a root whose `test` is that folder, or that has no `test`.
"""

from pathlib import Path

from ._data_set import DataSet
from ._folders import (
    Folder,
    Listing,
    above_train,
    class_names,
    existing_folder,
    image_set,
    split_by_class,
)
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split

MEAN = (0.47889522, 0.47227842, 0.43047404)
STD = (0.24205776, 0.23828046, 0.25874835)
ARCHIVE = "https://datashare.ed.ac.uk/handle/10283/3192"


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """root/{train,test}/<class>/*.png; root may also be the `train` folder itself. It cannot be downloaded here."""
    return image_set(listing(root, split), options, (MEAN, STD), trains=split == "train")


def listing(root: str | Path, split: str) -> Listing:
    """The images of a split, not read yet."""
    check_split(split)
    try:
        place = above_train(existing_folder(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; CINIC-10 is to be fetched by hand from {ARCHIVE}"
        ) from None
    if not (place / "train").is_dir():
        raise FileNotFoundError(
            f"there is no CINIC-10 in {place}: looked for train/<class>/; get it from {ARCHIVE}"
        )
    return split_by_class(place, split)


def recognise(root: Folder) -> str | None:
    """CIFAR-10's classes, and a folder `valid` that CIFAR-10 has not."""
    place = above_train(root)
    classes = set(class_names(place / "train"))
    if not {"airplane", "automobile", "truck"} <= classes:
        return None
    return "cinic10" if class_names(place / "valid") else None


DATASET = DataSet(
    title="CINIC-10",
    layout="`{train,valid,test}/<class>/*.png`",
    load=load,
    listing=listing,
    recognise=recognise,
    aliases=("cinic",),
)
