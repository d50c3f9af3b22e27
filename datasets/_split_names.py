"""What the folders of splits are usually called, in lower case; any case is known."""

TRAIN = ("train", "training")
TEST = ("test", "testing", "eval", "evaluation")
VALIDATION = ("val", "valid", "validation", "dev")
UNLABELLED = ("unlabeled", "unlabelled")  # images that belong to no class


def is_split_name(name: str) -> bool:
    return name.lower() in (*TRAIN, *TEST, *VALIDATION)


def is_unlabelled_name(name: str) -> bool:
    return name.lower() in UNLABELLED
