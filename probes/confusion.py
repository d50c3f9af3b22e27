"""Which classes a classifier takes for which: counts, accuracy of each class, and a picture of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

NAMED = 60  # more classes than this cannot be read beside the picture


class Confusion:
    """counts (classes, classes): row the label, column the answer."""

    def __init__(self, logits: Tensor, labels: Tensor, classes: Sequence[str]):
        """logits (N, classes), labels (N,)."""
        n = len(classes)
        pairs = labels.cpu() * n + logits.argmax(1).cpu()
        self.counts, self.classes = (
            torch.bincount(pairs, minlength=n * n).view(n, n),
            tuple(classes),
        )

    def per_class(self) -> dict[str, float | None]:
        """Top-1 accuracy in percent of each class's images; None where it has none."""
        hits, images = self.counts.diag().tolist(), self.counts.sum(1).tolist()
        found = zip(self.classes, hits, images, strict=True)
        return {name: round(100 * hit / count, 2) if count else None for name, hit, count in found}

    def save(self, folder: Path) -> Path:
        """Write confusion.json and confusion.png into a folder; the path of the first."""
        path = folder / "confusion.json"
        content = {
            "classes": self.classes,
            "per_class_top1": self.per_class(),
            "counts": self.counts.tolist(),
        }
        path.write_text(json.dumps(content) + "\n")
        self.draw(folder / "confusion.png")
        return path

    def draw(self, path: Path) -> None:
        """Each row's shares as shades; names where there is room."""
        from matplotlib.figure import Figure  # slow to import

        n = len(self.classes)
        side = min(12.0, 3 + 0.25 * n)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        shares = self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)
        image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")
        axes.set(xlabel="answer", ylabel="label")
        if n <= NAMED:
            axes.set_xticks(range(n), self.classes, rotation=90, fontsize=7)
            axes.set_yticks(range(n), self.classes, fontsize=7)
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the label's images")
        figure.savefig(path, dpi=120)
