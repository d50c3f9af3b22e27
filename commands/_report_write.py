"""Writes a report: the page, and the files beside it."""

import time
from collections.abc import Sequence
from pathlib import Path

from multicrop.engine.files import atomic_write, write_errors
from multicrop.engine.optional import optional
from multicrop.pictures import charts
from multicrop.pictures.page import Chart, Section, render


def make_folder(files: Path) -> None:
    """OSError where nothing can be written there."""
    with write_errors(files):
        files.mkdir(parents=True, exist_ok=True)


def write(
    page: Path, title: str, sections: Sequence[Section], files: Path | None, every: float = 0
) -> None:
    """files: the folder of the charts as SVG and PNG; None: none are written. every: seconds between two versions."""
    when = time.strftime("%Y-%m-%d %H:%M")
    html = render(title, f"multicrop report, {when}", sections, round(every))
    with atomic_write(page) as file:
        file.write(html.encode("utf-8", "backslashreplace"))  # names of files need not be UTF-8
    if files is None:
        return
    every_chart = [b for section in sections for b in section.blocks if isinstance(b, Chart)]
    for chart in every_chart:
        for ending, draw in ((".svg", charts.as_svg), (".png", charts.as_png)):
            path = files / f"{chart.name}{ending}"
            with optional(str(path)), atomic_write(path) as file:
                file.write(draw(chart.spec))
