"""What `multicrop check` prints: of each split, of the classes, of copies, and of every file."""

from typing import Any

from multicrop.commands._imbalance import classes_without, unequal
from multicrop.datasets._duplicates import Image, across_splits, conflicting
from multicrop.datasets._folders import some
from multicrop.datasets._inventory import Inventory, listed
from multicrop.engine import ranks

NAMED = 12  # classes that are named


def print_report(split: str, counts: dict[str, Any]) -> None:
    if "error" in counts:
        ranks.log(f"{split}: {counts['error']}")
        return
    classes = "no labels"
    if counts["classes"]:
        classes = f"{counts['classes']} classes of {counts['fewest']} to {counts['most']}"
    sides = "no image that can be read"
    if "width" in counts:
        sides = f"{span(counts['width'])} x {span(counts['height'])} px"
        sides += "" if counts["square"] else " (width x height)"
    ranks.log(
        f"{split}: {counts['images']} images, {classes}; {sides}; {counts['unreadable']} unreadable"
    )
    if counts.get("bits"):
        channels, bits = " or ".join(counts["channels"]), " or ".join(counts["bits"])
        noun = "channel" if channels == "1" else "channels"
        ranks.log(f"  {channels} {noun} of {bits} bits")
    for line in counts.get("notes", ()):
        ranks.log(f"  {line}")
    for name in counts["unreadable_images"]:
        ranks.log(f"  unreadable: {name}")
    if counts.get("empty_classes"):
        names = some(counts["empty_classes"], NAMED)
        ranks.log(
            f"  without images: {names}: put some there or remove the class, training refuses it"
        )
    for name in counts.get("unreadable_classes", ()):
        fate = "mend them or remove the class" if split == "train" else f"it has no {split} images"
        ranks.log(f"  class {name}: none of its images is readable, {fate}")


def print_balance(reports: dict[str, dict]) -> None:
    """The classes, by name, and warnings of those that have few training images or none to be tested on."""
    labelled = {split: counts for split, counts in reports.items() if counts.get("classes")}
    if not labelled:
        return
    per_class = next(iter(labelled.values()))["per_class"]
    counts = [f"{name} {count:,}" for name, count in per_class.items()]
    ranks.log(f"classes: {some(counts, NAMED)}")
    if "train" in labelled:
        words = unequal({name: count for name, count in per_class.items() if count})
        lines = [f"warning: {words}"] if words else []
        if "test" in labelled:
            counts = labelled["test"]["per_class"]
            lost = dict.fromkeys(labelled["test"].get("unreadable_classes", ()), 0)
            lines += classes_without({**counts, **lost}, "test images")
        for line in lines:
            ranks.log(line)


def print_copies(groups: list[list[Image]]) -> dict[str, list[list[str]]]:
    """A line for each kind of copies that harm, those with two labels and those in two splits; all as plain values."""
    found = {"two_labels": conflicting(groups), "two_splits": across_splits(groups)}
    named = {
        kind: [[f"{image.split} {image.name}" for image in images] for images in several]
        for kind, several in found.items()
    }
    words = {
        "two_labels": ("with different labels", "keep one of each"),
        "two_splits": (
            "in the training split and another one",
            "accuracies on them say nothing about new images",
        ),
    }
    for kind, (where, why) in words.items():
        if named[kind]:
            example = " and ".join(named[kind][0][:2])
            ranks.log(f"warning: equal files {where}: {len(named[kind])}, e.g. {example} ({why})")
    return named


def account(inventory: Inventory | None, reports: dict[str, dict]) -> dict[str, Any] | None:
    """Every file below a folder of one's own: used, unreadable or left out. None where files are no images each."""
    if inventory is None:
        return None
    unreadable = sum(counts.get("unreadable", 0) for counts in reports.values())
    used = inventory.used - unreadable
    line = f"files: {inventory.files:,} = {used:,} used + {unreadable:,} unreadable"
    total = sum(inventory.left_out.values())
    line += f" + {total:,} left out"
    if total:
        line += f": {listed(inventory.left_out)}"
    ranks.log(line)
    return {
        "files": inventory.files,
        "used": used,
        "unreadable": unreadable,
        "left_out": inventory.left_out,
    }


def span(sizes: list[int]) -> str:
    smallest, median, largest = sizes
    if smallest == largest:
        return str(median)
    return f"{smallest}..{largest} (median {median})"
