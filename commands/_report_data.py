"""The part of a report about the images: what there is, how it looks, and what may be wrong with it.

n images of a split, D width of features.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from multicrop.commands import _report_faults
from multicrop.commands._imbalance import unequal
from multicrop.commands._report_block import attempt
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import SplitImages
from multicrop.commands._report_tiles import tile
from multicrop.config.report import Looking
from multicrop.datasets._inventory import listed
from multicrop.pictures import charts
from multicrop.pictures.page import Block, Chart, Section, Table, Tiles, Words
from multicrop.registry import Source

SHOWN = 24  # groups or images of a grid
CLASSES_SHOWN = 24  # on the contact sheet
PER_CLASS = 8
FEW = 6  # classes whose images are shown large, else two groups in a line
SIZE, SMALL = 72, 48  # px of an image
BARS = 60  # classes that have a bar


def section(
    source: Source,
    path: str,
    splits: Sequence[SplitImages],
    comparing: Comparing,
    looking: Looking,
    files: Path,
) -> Section:
    """files: the folder for the tables of what was found."""
    blocks = attempt("counts", lambda: counts(source, path, splits))
    blocks += attempt("balance of the classes", lambda: balance(splits))
    blocks += attempt("brightness", lambda: brightness(splits))
    blocks += attempt("contact sheet", lambda: contact_sheet(splits))
    blocks += _report_faults.blocks(splits, comparing, looking, files)
    return Section("The images", blocks)


# What there is


def counts(source: Source, path: str, splits: Sequence[SplitImages]) -> Iterator[Block]:
    rows = []
    for split in splits:
        channels, height, width = split.pixels.shape[1:]
        rows.append(
            [
                split.split,
                split.total,
                len(split),
                len(split.unreadable),
                len(split.classes) or "no labels",
                channels,
                sizes(split.files),
                f"{height} x {width}",
            ]
        )
    head = [
        "split",
        "images",
        "looked at",
        "unreadable",
        "classes",
        "channels",
        "px of the files",
        "px as looked at",
    ]
    yield Table(path, head, rows)
    for split in splits:
        for name, reason in list(split.unreadable.items())[:SHOWN]:
            yield Words(f"Unreadable: {name}: {reason}")
    inventory = source.inventory(path)
    if inventory is not None and sum(inventory.left_out.values()):
        yield Words(f"Of {inventory.files:,} files left out: {listed(inventory.left_out)}.")


def sizes(files: Mapping[str, Any]) -> str:
    """Height and width in px, of files that differ the smallest, median and largest of each."""
    if "width" not in files:
        return ""
    return " x ".join(
        " / ".join(map(str, dict.fromkeys(files[side]))) for side in ("height", "width")
    )


def balance(splits: Sequence[SplitImages]) -> Iterator[Block]:
    labelled = [split for split in splits if split.labels is not None]
    if not labelled:
        yield Words("There are no labels.")
        return
    classes = labelled[0].classes
    per_split = {split.split: class_counts(split) for split in labelled}
    of_first = next(iter(per_split.values()))
    words = unequal({name: count for name, count in of_first.items() if count})
    if words:
        yield Words(words)
    order = sorted(classes, key=lambda name: -of_first.get(name, 0))
    if len(classes) > BARS:
        values = sorted(of_first.values())
        middle = values[len(values) // 2]
        text = (
            f"{len(classes):,} classes of {values[0]:,} to {values[-1]:,} images, median {middle:,}"
        )
        yield Chart(
            "classes",
            f"{text}: how many classes have how many images",
            charts.histogram(values, "images of a class"),
        )
        return
    rows = [
        {"class": name, "images": per_split[split].get(name, 0), "split": split}
        for name in order
        for split in per_split
    ]
    yield Chart("classes", "Images of each class", charts.bars(rows, "class", "images", "split"))


def class_counts(split: SplitImages) -> dict[str, int]:
    assert split.labels is not None
    counts = split.labels.bincount(minlength=len(split.classes)).tolist()
    return dict(zip(split.classes, counts, strict=True))


def brightness(splits: Sequence[SplitImages]) -> Iterator[Block]:
    first = splits[0]
    means = first.pixels.flatten(1).float().mean(1) / 255
    yield Chart(
        "brightness",
        f"Mean brightness of each of {first.looked_at}, 0 black, 1 white",
        charts.histogram(means.tolist(), "brightness"),
    )


def contact_sheet(splits: Sequence[SplitImages]) -> Iterator[Block]:
    first = splits[0]
    if first.labels is None:
        chosen = (
            torch.linspace(0, len(first) - 1, min(len(first), 4 * PER_CLASS))
            .long()
            .unique()
            .tolist()
        )
        yield Tiles("Some of the images", [("", [tile(first, image) for image in chosen])])
        return
    groups = []
    for label, name in enumerate(first.classes[:CLASSES_SHOWN]):
        images = (first.labels == label).nonzero()[:, 0]
        chosen = images[:: max(1, len(images) // PER_CLASS)][:PER_CLASS].tolist()
        groups.append(
            (f"{name}: {len(images):,} images", [tile(first, image, "") for image in chosen])
        )
    more = len(first.classes) - len(groups)
    caption = f"Images of each class, {first.split} split" + (
        f"; {more:,} more classes" if more else ""
    )
    yield Tiles(caption, groups, SIZE if len(groups) <= FEW else SMALL)
