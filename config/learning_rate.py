"""How a learning rate follows the batch: the linear rule of Goyal et al. 2017 (arXiv 1706.02677), section 2.1."""


def scaled_lr(lr: float, batch: int, reference: int | None) -> float:
    """The rate for `batch` images per step, where `lr` is that for `reference` images (None: for any number)."""
    if reference is None:
        return lr
    return lr * batch / reference


def scaling_in_words(lr: float, batch: int, reference: int | None) -> str:
    """How that rate comes about, for people."""
    if reference is None:
        return "it does not depend on the batch"
    return f"{lr:g} x {batch} / {reference}"
