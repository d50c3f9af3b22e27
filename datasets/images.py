"""Images without labels: every image file below a folder, however deep. For pretraining only."""

from pathlib import Path

from ._archive import Inside
from ._folders import Listing, existing_folder, image_names, image_set
from ._images import ImageSet, check_split

LABELLED = False


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
    """All images, unlabelled; mean and std are measured. ValueError for the test split, which needs labels."""
    return image_set(listing(root, split), source_size, None, stream, workers)


def listing(root: str | Path, split: str) -> Listing:
    """The images, not read yet."""
    check_split(split)
    if split == "test":
        raise ValueError(
            "--dataset images has no labels and so no test split; class folders are --dataset image_folder"
        )
    root = existing_folder(root)
    return Listing(root, image_names(root), None, ())


def recognise(root: Path | Inside) -> str | None:
    return "images" if image_names(root) else None
