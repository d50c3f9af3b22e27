"""A picture of errors and of calibration under corruptions, over their severity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ._figure import new_figure, save_figure

LABELS = {
    "error": "error in percent",
    "ece": "calibration error (ECE) in percent",
    "calibrated_ece": "ECE with the fitted temperature",
}


def draw_robustness(
    rows: Mapping[str, Mapping[str, Any]],
    clean: Mapping[str, float],
    severities: Sequence[int],
    path: str | Path,
) -> None:
    """rows: for each corruption a list over the severities of each of LABELS that `clean`, of clean images, has."""
    labels = {measure: label for measure, label in LABELS.items() if measure in clean}
    figure, axes = new_figure(1, len(labels), width=5.0, height=4.2)
    places = [0, *severities]
    for axis, (measure, label) in zip(axes[0], labels.items(), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            style = "-" if number < 10 else "--"  # there are ten colours
            shown = name.replace("_", " ")
            axis.plot(places, [clean[measure], *row[measure]], style, linewidth=1, label=shown)
        lists = [row[measure] for row in rows.values()]
        means = [fmean(values) for values in zip(*lists, strict=True)]
        axis.plot(places, [clean[measure], *means], "k.-", linewidth=2.5, label="mean")
        axis.set(xlabel="severity (0: clean images)", ylabel=label, xticks=places)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
