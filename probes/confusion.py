"""Which classes a classifier takes for which: counts, and the accuracy of each class."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Confusion:
    """counts (classes, classes): row the label, column the predicted class."""

    def __init__(self, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        """logits (N, classes), labels (N,)."""
        count = len(classes)
        pairs = labels.cpu() * count + logits.argmax(1).cpu()
        self.counts = torch.bincount(pairs, minlength=count * count).view(count, count)
        self.classes = tuple(classes)

    def per_class(self) -> dict[str, float | None]:
        """Top-1 accuracy in percent of each class's images; None where it has none."""
        accuracies: dict[str, float | None] = {}
        images_per_class = self.counts.sum(1).tolist()
        hits_per_class = self.counts.diag().tolist()
        for name, images, hits in zip(self.classes, images_per_class, hits_per_class, strict=True):
            accuracies[name] = round(100 * hits / images, 2) if images else None
        return accuracies

    def to_dict(self) -> dict[str, object]:
        """What confusion.json holds."""
        return {
            "classes": self.classes,
            "per_class_top1": self.per_class(),
            "counts": self.counts.tolist(),
        }
