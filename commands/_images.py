"""The images of a data set, read first by one process of each node: downloads and caches are made once."""

from multicrop.engine import ranks
from multicrop.registry import source


def labelled(
    dataset: str,
    datapath: str,
    source_size: int,
    download: bool,
    splits: tuple[str, ...] = ("train", "test"),
    *,
    stream: bool | None = None,
    workers: int | None = None,
):
    """The ImageSet of each split, in a list. ValueError where the data set has no labels."""
    data = source(dataset)
    if not getattr(data.module, "LABELLED", True):  # before a long decoding
        raise _unlabelled(dataset)
    options = {
        "source_size": source_size,
        "download": download,
        "stream": stream,
        "workers": workers,
    }
    with ranks.first_on_node():
        found = [data.load(datapath, split, **options) for split in splits]
    if any(images.labels is None for images in found):
        raise _unlabelled(dataset)
    return found


def _unlabelled(dataset: str) -> ValueError:
    hint = "class folders are --dataset image_folder"
    return ValueError(f"--dataset {dataset} has no labels, and they are needed: {hint}")
