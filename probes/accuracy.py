"""Accuracies of a classifier."""

import torch


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """logits (N, classes), labels (N,) -> top-1 and top-5 accuracy in percent (of fewer classes: of all of them)."""
    classes = min(5, logits.shape[1])
    hits = logits.topk(classes).indices == labels[:, None]
    return _percent(hits[:, 0]), _percent(hits.any(1))


def _percent(hits: torch.Tensor) -> float:
    return round(100 * hits.sum().item() / len(hits), 3)
