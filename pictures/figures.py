"""Pictures of a run as PNG files: its crops, its curves, its attention. Needs no display.

G global and L local crops of B images with C channels, of which the first three are shown; pixels are uint8 or floats
in 0..1 (values outside are clipped). Every function takes the path of the file and creates its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ._figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_crops(
    global_crops: Tensor, local_crops: Tensor, path: str | Path, images: Tensor | None = None
) -> None:
    """Crops (G, B, C, H, W) and (L, B, C, h, w), optionally the images (B, C, S, S): a row per image, to scale."""
    views: dict[str, Tensor] = {}  # one column each
    if images is not None:
        views["image"] = images
    for kind, crops in (("global", global_crops), ("local", local_crops)):
        for index, view in enumerate(crops, start=1):
            title = kind if len(crops) == 1 else f"{kind} {index}"
            views[title] = view
    largest = max(view.shape[-1] for view in views.values())
    rows = global_crops.shape[1]
    figure, axes = _blank_grid(rows, len(views))
    for column, (title, view) in enumerate(views.items()):
        axes[0, column].set_title(title, fontsize=8)
        margin = (largest - view.shape[-1]) / 2
        start, stop = -0.5 - margin, largest - 0.5 - margin
        for row in range(rows):
            axis = axes[row, column]
            _show(axis, view[row])
            axis.set_xlim(start, stop)
            axis.set_ylim(stop, start)
    save_figure(figure, path)


def draw_curves(
    rows: Sequence[dict], path: str | Path, names: Sequence[str] = ("loss", "knn"), x: str = "step"
) -> None:
    """Rows of metrics -> one panel per name over `x`; a row that lacks a name is left out of its panel."""
    figure, axes = new_figure(1, len(names), width=4.0, height=3.0)
    for axis, name in zip(axes[0], names, strict=True):
        places, values = [], []
        for row in rows:
            if x in row and row.get(name) is not None:
                places.append(row[x])
                values.append(row[name])
        marker = "." if len(values) < 30 else None
        axis.plot(places, values, marker=marker)
        axis.set_xlabel(x)
        axis.set_title(name)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def draw_attention(images: Tensor, maps: Tensor, path: str | Path) -> None:
    """Images (B, C, H, W) and heat maps or masks (B, heads, H, W): a row per image, each head on top of it."""
    columns = 1 + maps.shape[1]  # the image alone, then each head
    figure, axes = _blank_grid(len(images), columns)
    heats = maps.float().cpu().numpy()
    for row, image in enumerate(images):
        _show(axes[row, 0], image)
        for head, heat in enumerate(heats[row], start=1):
            axis = axes[row, head]
            _show(axis, image)
            axis.imshow(heat, cmap="viridis", alpha=0.65)
            if row == 0:
                axis.set_title(f"head {head}", fontsize=8)
    save_figure(figure, path)


def _blank_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Small panels without ticks and frames."""
    figure, axes = new_figure(rows, columns, width=1.1, height=1.2)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _show(axis: Axes, image: Tensor) -> None:
    axis.imshow(_pixels(image), interpolation="nearest", cmap="gray", vmin=0, vmax=1)


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) -> an array (H, W, 3), or (H, W) for fewer channels, in 0..1; others than the colours are not shown."""
    image = image.detach().cpu()
    image = image[:3] if len(image) >= 3 else image[:1]
    if image.dtype == torch.uint8:
        image = image / 255
    image = image.float().clamp(0, 1)
    if len(image) == 1:
        return image[0].numpy()
    return image.permute(1, 2, 0).numpy()


def draw_maps(images: Tensor, columns: Mapping[str, Tensor], path: str | Path) -> None:
    """Images (B, C, H, W) and what a network makes of them: a row per image, a column per name.

    Maps (B, h, w) lie over the image as heat, colours (B, 3, h, w) in 0..1 stand alone.
    """
    figure, axes = _blank_grid(len(images), 1 + len(columns))
    height, width = images.shape[-2:]
    for row, image in enumerate(images):
        _show(axes[row, 0], image)
        for axis, values in zip(axes[row, 1:], columns.values(), strict=True):
            if values.dim() == 4:
                _show(axis, values[row])
            else:
                _show(axis, image)
                heat = values[row].float().cpu().numpy()
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                axis.imshow(heat, cmap="viridis", alpha=0.65, extent=extent)
    for axis, name in zip(axes[0, 1:], columns, strict=True):
        axis.set_title(name, fontsize=8)
    save_figure(figure, path)
