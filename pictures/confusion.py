"""A picture of which classes a classifier takes for which."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ._figure import new_figure, printable, save_figure

MOST_NAMES = 60  # more classes than this cannot be read beside the picture


def draw_confusion(counts: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """Counts (classes, classes), a row for each label: its shares as shades; names where there is room."""
    side = min(12.0, 3 + 0.25 * len(classes))
    figure, axes = new_figure(1, 1, width=side, height=side)
    axis = axes[0, 0]
    images_per_class = counts.sum(1, keepdim=True).clamp(min=1)
    shares = counts / images_per_class
    image = axis.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")
    axis.set(xlabel="predicted class", ylabel="label")
    if len(classes) <= MOST_NAMES:
        places = range(len(classes))
        names = [printable(name) for name in classes]
        axis.set_xticks(places, names, rotation=90, fontsize=7)
        axis.set_yticks(places, names, fontsize=7)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the label's images")
    save_figure(figure, path, dpi=120)
