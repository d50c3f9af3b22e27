"""The images of a data set, read first by one process of each node: downloads and caches are made once."""

from multicrop.datasets._images import SPLITS, ImageSet, LoadOptions
from multicrop.engine import ranks
from multicrop.registry import source


def load_labelled(
    dataset: str, datapath: str, options: LoadOptions, splits: tuple[str, ...] = SPLITS
) -> list[ImageSet]:
    """The images of each split. ValueError where the data set has no labels."""
    data = source(dataset)
    if not data.labelled:  # said before a long decoding
        raise _no_labels(dataset)
    with ranks.first_on_node():
        sets: list[ImageSet] = [data.load(datapath, split, options) for split in splits]
    for images in sets:
        if images.labels is None:
            raise _no_labels(dataset)
    return sets


def _no_labels(dataset: str) -> ValueError:
    hint = "class folders are --dataset image_folder"
    return ValueError(f"--dataset {dataset} has no labels, and they are needed: {hint}")
