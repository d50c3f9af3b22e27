"""What the folders of splits are usually called: in any case, and as trainset, train_set, seg_train, test-data, ..."""

import re

TRAIN = ("train", "training")
TEST = ("test", "testing", "eval", "evaluation")
VALIDATION = ("val", "valid", "validation", "dev")
UNLABELLED = ("unlabeled", "unlabelled")  # images that belong to no class


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


def is_unlabelled_name(name: str) -> bool:
    return name.lower() in UNLABELLED
