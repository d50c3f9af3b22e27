"""Pictures of a run as PNG files: its crops, its curves, its attention. Needs no display.

G global and L local crops of B images with C = 1 or 3 channels; pixels are uint8 or floats in 0..1 (values outside are
clipped). Every function takes the path of the file and creates its folder.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def draw_crops(
    global_crops: Tensor, local_crops: Tensor, path: str | Path, images: Tensor | None = None
) -> None:
    """Crops (G, B, C, H, W) and (L, B, C, h, w), optionally the images (B, C, S, S): a row per image, to scale."""
    rows = global_crops.shape[1]
    kinds = [("image", images[None])] if images is not None else []
    kinds += [("global", global_crops), ("local", local_crops)]
    cells = [
        (f"{name} {i + 1}" if len(views) > 1 else name, views[i])
        for name, views in kinds
        for i in range(len(views))
    ]
    side = max(view.shape[-1] for _, view in cells)
    figure, axes = _grid(rows, len(cells))
    for column, (title, view) in enumerate(cells):
        axes[0][column].set_title(title, fontsize=8)
        margin = (side - view.shape[-1]) / 2
        for row in range(rows):
            axis = axes[row][column]
            _show(axis, view[row])
            axis.set_xlim(-0.5 - margin, side - 0.5 - margin)
            axis.set_ylim(side - 0.5 - margin, -0.5 - margin)
    _save(figure, path)


def draw_curves(
    rows: Sequence[dict], path: str | Path, names: Sequence[str] = ("loss", "knn"), x: str = "step"
) -> None:
    """Rows of metrics -> one panel per name over `x`; a row that lacks a name is left out of its panel."""
    figure, axes = _figure(1, len(names), width=4.0, height=3.0)
    for axis, name in zip(axes[0], names, strict=True):
        points = [(row[x], row[name]) for row in rows if row.get(name) is not None and x in row]
        axis.plot(
            [a for a, _ in points], [b for _, b in points], marker="." if len(points) < 30 else None
        )
        axis.set_xlabel(x)
        axis.set_title(name)
        axis.grid(alpha=0.3)
    _save(figure, path)


def draw_attention(images: Tensor, maps: Tensor, path: str | Path) -> None:
    """Images (B, C, H, W) and heat maps or masks (B, heads, H, W): a row per image, each head on top of it."""
    figure, axes = _grid(len(images), maps.shape[1] + 1)
    for row, image in enumerate(images):
        _show(axes[row][0], image)
        for head, heat in enumerate(maps[row].float().cpu().numpy()):
            axis = axes[row][head + 1]
            _show(axis, image)
            axis.imshow(heat, cmap="viridis", alpha=0.65)
            if row == 0:
                axis.set_title(f"head {head + 1}", fontsize=8)
    _save(figure, path)


def _grid(rows: int, columns: int):
    figure, axes = _figure(rows, columns, width=1.1, height=1.2)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _figure(rows: int, columns: int, width: float, height: float):
    """A figure that belongs to no window, so neither a display nor matplotlib's global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axis, image: Tensor) -> None:
    axis.imshow(_pixels(image), interpolation="nearest", cmap="gray", vmin=0, vmax=1)


def _pixels(image: Tensor):
    """(C, H, W) -> an array (H, W, 3), or (H, W) for one channel, in 0..1."""
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        image = image.float() / 255
    image = image.float().clamp(0, 1)
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy()


def _save(figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
