"""Figures that belong to no window, so that neither a display nor matplotlib's global state is touched.

matplotlib is imported when the first one is made: it is slow to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of panels of width x height inches, and its axes (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def printable(name: str) -> str:
    """A name as matplotlib can draw it: bytes of file names that are not UTF-8 are \\xe9, and $ begins no formula."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write it, and make the folder where there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
