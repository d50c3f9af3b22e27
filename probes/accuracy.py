"""Accuracies of a classifier, in percent. N images."""

import torch
from torch import Tensor


def accuracies(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """logits (N, classes), labels (N,) -> top-1 and top-5 accuracy in percent (of fewer classes: of all of them)."""
    most = min(5, logits.shape[1])
    predictions = logits.topk(most).indices
    hits = predictions == labels[:, None]
    top1 = _percent(hits[:, 0])
    top5 = _percent(hits.any(1))
    return top1, top5


def balanced_accuracy(hits: Tensor, labels: Tensor) -> float:
    """Whether each image is right (N,), labels (N,) -> the mean of the classes' accuracies, of those with images.

    Every class counts alike, however many images it has (Brodersen et al. 2010, "The balanced accuracy and its
    posterior distribution").
    """
    images = labels.bincount()
    right = labels[hits].bincount(minlength=len(images))
    measured = images > 0
    recalls = right[measured] / images[measured]
    return round(100 * recalls.double().mean().item(), 3)


def macro_f1(predictions: Tensor, labels: Tensor) -> float:
    """Predicted classes (N,) and labels (N,) -> the mean of the classes' F1, of those that are a label or predicted.

    F1 = 2 hits / (images of the class + predictions of the class).
    """
    classes = int(torch.maximum(predictions, labels).max()) + 1
    hits = labels[predictions == labels].bincount(minlength=classes)
    sizes = labels.bincount(minlength=classes) + predictions.bincount(minlength=classes)
    present = sizes > 0
    scores = 2 * hits[present] / sizes[present]
    return round(100 * scores.double().mean().item(), 3)


def scores(predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Predicted classes (N,) and labels (N,) -> top1, balanced_accuracy and macro_f1, in percent."""
    hits = predictions == labels
    return {
        "top1": _percent(hits),
        "balanced_accuracy": balanced_accuracy(hits, labels),
        "macro_f1": macro_f1(predictions, labels),
    }


def _percent(hits: Tensor) -> float:
    return round(100 * hits.sum().item() / len(hits), 3)
