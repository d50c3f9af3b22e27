"""Say what a path holds, count, measure and decode its images, and print the commands that would train on them.

multicrop check photos                    # or an archive, or a folder of LMDB files
"""

import shlex
from collections import Counter
from pathlib import Path

from multicrop.config.check import Recipe
from multicrop.engine import ranks
from multicrop.registry import Source, find, names, source

GENERAL = ("image_folder", "images")  # they read what no other entry knows
SIZES = (
    224,
    128,
    96,
    64,
    32,
)  # image sizes that a command proposes: the largest that the images have


def run(r: Recipe) -> dict:
    data, name = recognised(r.path, r.dataset)
    splits = {split: report(data, r, split) for split in ("train", "test")}
    found = {"status": "finished", "path": r.path, "dataset": name, **splits}
    for split, seen in splits.items():
        say(split, seen)
    if "images" not in splits["train"]:
        return found
    found["commands"] = commands(name, data, r.path, splits["train"])
    for line in (f"{name} reads {r.path}; to train on it:", *found["commands"]):
        ranks.say(line)
    return found


def recognised(path: str, dataset: str | None) -> tuple[Source, str]:
    """The entry that reads a path, and how --dataset names it. ValueError when none does."""
    if dataset:
        return source(dataset), dataset
    entries = [name for name in names("datasets") if name not in GENERAL]
    root = find("datasets", "image_folder").existing_folder(Path(path).expanduser())
    for entry in (*entries, *GENERAL):
        module = find("datasets", entry)
        name = module.recognise(root) if hasattr(module, "recognise") else None
        if name:
            return source(name), name
    raise ValueError(f"{path} holds no images that any entry of datasets/ would read")


def splits_of(data: Source) -> tuple[str, ...]:
    return ("train", "test") if getattr(data.module, "LABELLED", True) else ("train",)


def report(data: Source, r: Recipe, split: str) -> dict:
    """What a split holds, or the error that reading it gives."""
    if split not in splits_of(data):
        return {"error": "no labels, so no test split"}
    try:
        listing = data.listing(r.path, split)
        if listing is not None:
            return find("datasets", "image_folder").survey(listing, r.decode, r.workers)
        return resident(data.load(r.path, split))
    except (ValueError, FileNotFoundError) as error:
        if split == "train":
            raise
        return {"error": str(error)}


def resident(images) -> dict:
    """The same of a set that is read at once."""
    side, counts = images.pixels.shape[-1], Counter(images.labels.tolist())
    each = {name: counts[label] for label, name in enumerate(images.classes)}
    return {
        "images": len(images), "width": [side] * 3, "height": [side] * 3, "short_side": side, "square": True,
        "unreadable": 0, "unreadable_images": [], "classes": len(each), "fewest": min(each.values()),
        "most": max(each.values()), "per_class": each,
    }  # fmt: skip


def say(split: str, seen: dict) -> None:
    if "error" in seen:
        return ranks.say(f"{split}: {seen['error']}")
    sides = " x ".join(
        "{}..{} (median {})".format(*[seen[k][i] for i in (0, 2, 1)]) for k in ("width", "height")
    )
    classes = (
        f"{seen['classes']} classes of {seen['fewest']} to {seen['most']}"
        if seen["classes"]
        else "no labels"
    )
    ranks.say(
        f"{split}: {seen['images']} images, {classes}; {sides} px; {seen['unreadable']} unreadable"
    )
    for name in seen["unreadable_images"]:
        ranks.say(f"  unreadable: {name}")


def commands(name: str, data: Source, path: str, seen: dict) -> list[str]:
    """The commands of both stages, of the first alone where there are no labels."""
    size = next((size for size in SIZES if size <= seen["short_side"]), SIZES[-1])
    where = f"--dataset {name} --datapath {shlex.quote(path)}"
    first = f"python train_ssl.py {where} --image_size {size} --output_dir runs/{data.entry}"
    second = f"python finetune.py {where} --pretrained_weights runs/{data.entry} --output_dir runs/{data.entry}-ft"
    return [first, second] if seen["classes"] else [first]
