"""Images without labels: every image file below a folder, however deep. For pretraining only."""

from pathlib import Path

from ._data_set import DataSet
from ._folders import Folder, Listing, existing_folder, image_names, image_set
from ._images import DEFAULTS, ImageSet, LoadOptions, check_split


def load(root: str | Path, split: str, options: LoadOptions = DEFAULTS) -> ImageSet:
    """All images, unlabelled; mean and std are measured. ValueError for the test split, which needs labels."""
    return image_set(listing(root, split), options)


def listing(root: str | Path, split: str) -> Listing:
    """The images, not read yet."""
    check_split(split)
    if split == "test":
        raise ValueError(
            "--dataset images has no labels and so no test split; class folders are --dataset image_folder"
        )
    folder = existing_folder(root)
    return Listing(folder, image_names(folder), None, ())


def recognise(root: Folder) -> str | None:
    """Any folder with an image file somewhere below."""
    return "images" if image_names(root) else None


DATASET = DataSet(
    title="your own images without labels",
    layout="image files in any tree of folders; for pretraining only",
    load=load,
    listing=listing,
    recognise=recognise,
    labelled=False,
    own=True,
)
