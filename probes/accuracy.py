"""Accuracies of a classifier."""

import torch


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """logits (N, classes), labels (N,) -> top-1 and top-5 accuracy in percent (of fewer classes: of all of them)."""
    most = min(5, logits.shape[1])
    predictions = logits.topk(most).indices
    hits = predictions == labels[:, None]
    top1 = _percent(hits[:, 0])
    top5 = _percent(hits.any(1))
    return top1, top5


def _percent(hits: torch.Tensor) -> float:
    return round(100 * hits.sum().item() / len(hits), 3)
