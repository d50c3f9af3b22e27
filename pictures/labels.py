"""The label-efficiency curve: accuracy over the share of labels, with a band of one deviation of its draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._figure import new_figure, printable, save_figure

STYLES = ("-", "--", ":", "-.")  # of networks, the pretrained one first; colours are of methods
PRETRAINED = "pretrained"


def draw_label_efficiency(
    curves: Sequence[Mapping[str, Any]], title: str, path: str | Path
) -> None:
    """curves: network, method and points, each with percent, top1 and top1_std (None of a single draw)."""
    figure, axes = new_figure(1, 1, width=7.5, height=4.5)
    axis = axes[0, 0]
    names = dict.fromkeys(curve["network"] for curve in curves)
    networks = sorted(names, key=lambda name: name != PRETRAINED)
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    for curve in curves:
        points = curve["points"]
        percents = [point["percent"] for point in points]
        means = [point["top1"] for point in points]
        spreads = [point["top1_std"] or 0.0 for point in points]
        colour = f"C{methods.index(curve['method'])}"
        style = STYLES[networks.index(curve["network"]) % len(STYLES)]
        label = printable(f"{curve['method']}, {curve['network']}")
        axis.plot(percents, means, style, marker=".", color=colour, label=label)
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axis.fill_between(percents, low, high, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted({point["percent"] for curve in curves for point in curve["points"]})
    axis.set(xscale="log", xlabel="labels used, in percent of each class", title=printable(title))
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_ylabel("top-1 accuracy in percent")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
