"""Say what a path holds, count, measure and decode its images, and print the commands that would train on them.

multicrop check photos                    # or an archive, or a folder of LMDB files
"""

import shlex
from pathlib import Path
from typing import Any

from multicrop.config.check import Recipe
from multicrop.datasets._convert import Conversion
from multicrop.datasets._folders import existing_folder
from multicrop.datasets._images import SPLITS, ImageSet
from multicrop.datasets._survey import balance, survey
from multicrop.engine import ranks
from multicrop.registry import Source, names, source

GENERAL = ("image_folder", "images")  # they read what no other entry recognises
# Image sizes that a command proposes: the largest that the images have
SIZES = (224, 128, 96, 64, 32)


def run(r: Recipe) -> dict[str, Any]:
    data, name = recognise(r.path, r.dataset)
    asked = Conversion(fit="auto" if data.own else "crop")
    reports = {}
    for split in SPLITS:
        reports[split] = report(data, r, split, asked)
        print_report(split, reports[split])
        # The range of values that is measured on the training images holds for the test images.
        asked = asked._replace(**reports[split].get("value_range", {}))
    result = {"status": "finished", "path": r.path, "dataset": name, **reports}
    if "short_side" not in reports["train"]:  # no image can be read
        return result
    result["commands"] = commands(name, data, r.path, reports["train"])
    ranks.log(f"{name} reads {r.path}; to train on it:")
    for line in result["commands"]:
        ranks.log(line)
    return result


def recognise(path: str, dataset: str | None) -> tuple[Source, str]:
    """The entry that reads a path, and how --dataset names it. ValueError when none does."""
    if dataset:
        return source(dataset), dataset
    folder = existing_folder(Path(path).expanduser())
    entries = [entry for entry in names("datasets") if entry not in GENERAL]
    for entry in (*entries, *GENERAL):
        recognise_folder = source(entry).data_set.recognise
        name = recognise_folder(folder) if recognise_folder else None
        if name:
            return source(name), name
    raise ValueError(f"{path} holds no images that any entry of datasets/ would read")


def splits_of(data: Source) -> tuple[str, ...]:
    return SPLITS if data.labelled else ("train",)


def report(data: Source, r: Recipe, split: str, asked: Conversion) -> dict[str, Any]:
    """What a split holds, or the error that reading it gives."""
    if split not in splits_of(data):
        return {"error": "no labels, so no test split"}
    try:
        listing = data.listing(r.path, split)
        if listing is not None:
            return survey(listing, r.decode, r.workers, asked)
        return report_resident(data.load(r.path, split))
    except (ValueError, FileNotFoundError) as error:
        if split == "train":
            raise
        return {"error": str(error)}


def report_resident(images: ImageSet) -> dict[str, Any]:
    """What a set holds that is read at once."""
    side = images.pixels.shape[-1]
    labels = None if images.labels is None else images.labels.tolist()
    return {
        "images": len(images),
        "width": [side] * 3,
        "height": [side] * 3,
        "short_side": side,
        "square": True,
        "unreadable": 0,
        "unreadable_images": [],
        **balance(labels, images.classes),
    }


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
    ranks.log(
        f"{split}: {counts['images']} images, {classes}; {sides}; {counts['unreadable']} unreadable"
    )
    if counts.get("bits"):
        channels, bits = " or ".join(counts["channels"]), " or ".join(counts["bits"])
        ranks.log(f"  {channels} channels of {bits} bits")
    for line in counts.get("notes", ()):
        ranks.log(f"  {line}")
    for name in counts["unreadable_images"]:
        ranks.log(f"  unreadable: {name}")


def span(sizes: list[int]) -> str:
    smallest, median, largest = sizes
    return f"{smallest}..{largest} (median {median})"


def commands(name: str, data: Source, path: str, counts: dict[str, Any]) -> list[str]:
    """The commands of both stages, of the first alone where there are no labels.

    For one's own images --recipe auto chooses the image size.
    """
    images = f"--dataset {name} --datapath {shlex.quote(path)}"
    size = "" if data.own else f" --image_size {largest_size(counts['short_side'])}"
    run_folder = f"runs/{data.entry}"
    first = f"python train_ssl.py {images}{size} --output_dir {run_folder}"
    second = f"python finetune.py {images} --pretrained_weights {run_folder} --output_dir {run_folder}-ft"
    return [first, second] if counts["classes"] else [first]


def largest_size(side: int) -> int:
    """The largest of the usual sizes in pixels that images of this side have, at least the smallest of them."""
    return max((size for size in SIZES if size <= side), default=min(SIZES))
