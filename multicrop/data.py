"""What a path holds, and images packed into one file.

    python -m multicrop.data check photos             # or an archive, or a folder of LMDB files
    python -m multicrop.data pack photos --out packed # packed/train.lmdb and packed/test.lmdb

`check` names the entry of datasets/ that reads the path, counts, measures and decodes its images, and prints the
commands that would train on them. The last line of standard output is a JSON object.
"""

import inspect
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from . import cli, ranks
from .find import Source, find, names, source

GENERAL = ("image_folder", "images")  # they read what no other entry knows
SIZES = (224, 128, 96, 64, 32)  # image sizes that a command proposes: the largest that the images have


@dataclass(frozen=True)
class Check:
    """Say what a path holds and how to train on it."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder, archive, or folder of LMDB files."""
    dataset: str | None = None
    """The data set that it is (None: what it looks like)."""
    decode: bool = True
    """Decode every image, to find those that cannot be; false reads only the headers."""
    workers: int | None = None
    """Processes that decode (None: one per processor)."""


@dataclass(frozen=True)
class Pack:
    """Copy the image files of both splits into LMDB files, which are read in place and can be streamed."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder or archive."""
    out: str
    """Folder of the files."""
    dataset: str | None = None
    """The data set that it is (None: what it looks like)."""


def check(r: Check) -> dict:
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


def pack(r: Pack) -> dict:
    data, name = recognised(r.path, r.dataset)
    listings = {split: data.listing(r.path, split) for split in splits_of(data)}
    if None in listings.values():
        raise ValueError(f"{r.path} holds {name} in files that are read at once: there is nothing to pack")
    sizes = find("datasets", "lmdb").pack(listings, Path(r.out).expanduser())
    packed = check(Check(r.out, dataset="lmdb", decode=False))
    counts = {split: packed[split]["images"] for split in listings}
    return {
        "status": "finished", "dataset": "lmdb", "out": r.out, "images": counts, "bytes": sizes,
        "commands": packed["commands"],
    }  # fmt: skip


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


def report(data: Source, r: Check, split: str) -> dict:
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
    sides = " x ".join("{}..{} (median {})".format(*[seen[k][i] for i in (0, 2, 1)]) for k in ("width", "height"))
    classes = f"{seen['classes']} classes of {seen['fewest']} to {seen['most']}" if seen["classes"] else "no labels"
    ranks.say(f"{split}: {seen['images']} images, {classes}; {sides} px; {seen['unreadable']} unreadable")
    for name in seen["unreadable_images"]:
        ranks.say(f"  unreadable: {name}")


def commands(name: str, data: Source, path: str, seen: dict) -> list[str]:
    """The commands of both stages, of the first alone where there are no labels."""
    size = next((size for size in SIZES if size <= seen["short_side"]), SIZES[-1])
    where = f"--dataset {name} --datapath {shlex.quote(path)}"
    first = f"python train_ssl.py {where} --image_size {size} --output_dir runs/{data.entry}"
    second = f"python finetune.py {where} --pretrained_weights runs/{data.entry} --output_dir runs/{data.entry}-ft"
    return [first, second] if seen["classes"] else [first]


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    kinds = {"check": (Check, check), "pack": (Pack, pack)}
    if argv[:1] and argv[0] in kinds:
        return cli.main(*kinds[argv[0]], argv[1:])
    print(inspect.cleandoc(__doc__))
    known = argv[:1] in (["--help"], ["-h"])
    if not known:
        print(f"error: {argv[0]} is neither check nor pack" if argv else "error: say check or pack", file=sys.stderr)
    sys.exit(0 if known else 2)


if __name__ == "__main__":
    main()
