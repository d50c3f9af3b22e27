"""The images of a data set, read first by one process of each node: downloads and caches are made once."""

from . import ranks
from .find import find


def labelled(
    dataset: str, datapath: str, source_size: int, download: bool, splits: tuple[str, ...] = ("train", "test")
):
    """The ImageSet of each split, in a list. ValueError where the data set has no labels."""
    source = find("datasets", dataset)
    found = []
    with ranks.first_on_node():
        for split in splits:
            found.append(source.load(datapath, split, source_size=source_size, download=download))
            if found[-1].labels is None:
                raise ValueError(
                    f"--dataset {dataset} has no labels, and they are needed: class folders are --dataset image_folder"
                )
    return found
