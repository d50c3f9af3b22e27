"""What the folders of splits are usually called: in any case, and as trainset, train_set, seg_train, test-data, ..."""

import re
from collections.abc import Iterable

TRAIN = ("train", "training")
TEST = ("test", "testing", "eval", "evaluation")
VALIDATION = ("val", "valid", "validation", "dev")
UNLABELLED = ("unlabeled", "unlabelled")  # images that belong to no class
# Folders of data sets for segmentation and detection, in lower case and without what is no letter
PLAIN_IMAGES = (
    "images",
    "image",
    "imgs",
    "img",
    "jpegimages",
    "photos",
    "pictures",
    "rgb",
    "inputs",
)
ANNOTATIONS = (
    "masks", "mask", "annotations", "annotation", "annots", "labels", "label", "labelmaps", "segmentation",
    "segmentations", "segmentationclass", "segmentationobject", "groundtruth", "groundtruths", "gt", "bboxes", "boxes",
    "targets", "annotationstrimaps", "trimaps", "depth",
)  # fmt: skip


DECORATION = ("set", "data", "dataset", "seg", "split", "images", "imgs")


def split_name(folder: str) -> str:
    """A folder's name in lower case, without what people put around the name of a split."""
    words = []
    for word in re.split(r"[^a-z]+", folder.lower()):
        for end in ("dataset", "set", "data"):
            word = word.removesuffix(end)
        words.append(word)
    kept = [word for word in words if word and word not in DECORATION]
    return kept[0] if len(kept) == 1 else folder.lower()


def is_split_name(name: str) -> bool:
    return split_name(name) in (*TRAIN, *TEST, *VALIDATION)


def annotated(folders: Iterable[str]) -> tuple[str, str] | None:
    """The folder of images and that of their masks or boxes, where two of these are called so; None elsewhere."""
    words = {name: re.sub("[^a-z]", "", name.lower()) for name in folders}
    images = [name for name, word in words.items() if word in PLAIN_IMAGES]
    others = [name for name, word in words.items() if word in ANNOTATIONS]
    return (images[0], others[0]) if images and others else None


def is_unlabelled_name(name: str) -> bool:
    return name.lower() in UNLABELLED
