"""Say what a path holds, count, measure and decode its images, and print the commands that would train on them.

multicrop check photos                    # or an archive, a table of labels, shards, LMDB files, ...
multicrop check runs/photos --verify      # compare checksums: of runs, checkpoints, packed images, the image cache, ...
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from multicrop.commands import _check_lines, _verify
from multicrop.config.check import Recipe
from multicrop.config.flags import typed
from multicrop.config.sizes import height_width
from multicrop.datasets._archive import ENDINGS as ARCHIVES
from multicrop.datasets._archive import is_archive
from multicrop.datasets._convert import Conversion
from multicrop.datasets._duplicates import copies
from multicrop.datasets._endings import TABLES, is_table
from multicrop.datasets._folders import Listing, NoTrainingImages, existing_folder
from multicrop.datasets._images import SPLITS, ImageSet
from multicrop.datasets._inventory import listed, unopened_images
from multicrop.datasets._split_names import is_split_name
from multicrop.datasets._survey import balance, survey
from multicrop.datasets._tree import Node
from multicrop.engine import ranks
from multicrop.registry import Source, names, source

NO_COLUMNS: Mapping[str, str] = MappingProxyType({})
PATTERNS = set(",*?[{")  # characters of paths that stand for several
GENERAL = ("image_folder", "images")  # they read what no other entry recognises
# Image sizes that a command proposes: the largest that the images have
SIZES = (224, 128, 96, 64, 32)


def run(r: Recipe) -> dict[str, Any]:
    if r.verify:
        return {"status": "finished", "path": r.path, **_verify.verify(r.path)}
    data, name = recognise(r.path, r.dataset, r.columns)
    reports, listings = reports_of(data, r)
    for split, counts in reports.items():
        _check_lines.print_report(split, counts)
    _check_lines.print_balance(reports)
    result = {"status": "finished", "path": r.path, "dataset": name, **reports}
    if r.decode and listings:
        result["copies"] = _check_lines.print_copies(copies(listings))
    files = _check_lines.account(data.inventory(r.path), reports)
    if files:
        result["files"] = files
    check_readable(r.path, reports)
    result["commands"] = commands(name, data, r, reports)
    purpose = "to train on it" if is_to_train_on(reports) else "to measure a network on it"
    ranks.log(f"{name} reads {r.path}; {purpose}:")
    for line in result["commands"]:
        ranks.log(line)
    return result


def reports_of(data: Source, r: Recipe) -> tuple[dict[str, dict[str, Any]], dict[str, Listing]]:
    """What each split holds, and the files of those that have any. Of a test split alone there is a report too."""
    asked = Conversion(fit="auto" if data.own else "crop")
    reports: dict[str, dict[str, Any]] = {}
    listings: dict[str, Listing] = {}
    try:
        for split in splits_of(data, r.path):
            reports[split] = report(data, r, split, asked, listings)
            # The range of values that is measured on the training images holds for the others.
            asked = asked._replace(**reports[split].get("value_range", {}))
    except NoTrainingImages as error:
        whole = data.unsplit(r.path)
        if whole is None:
            raise
        return {"train": {"error": str(error)}, "test": look(whole, r, asked)}, {"test": whole}
    if not data.labelled:
        reports["test"] = {"error": "no labels, so no test split"}
    return reports, listings


def is_to_train_on(reports: dict[str, dict]) -> bool:
    return "error" not in reports["train"]


def check_readable(path: str, reports: dict[str, dict]) -> None:
    """ValueError where not one image can be read."""
    there = sum(counts.get("images", 0) for counts in reports.values())
    unreadable = sum(counts.get("unreadable", 0) for counts in reports.values())
    if there == unreadable:
        raise ValueError(
            f"{path}: none of its {there} images can be read: mend or fetch them again"
        )


def recognise(
    path: str, dataset: str | None, columns: Mapping[str, str] = NO_COLUMNS
) -> tuple[Source, str]:
    """The entry that reads a path, and how --dataset names it. ValueError when none does."""
    if dataset:
        return source(dataset).with_columns(columns), dataset
    place = Path(path).expanduser()
    if not (place.exists() or set(path) & PATTERNS):
        existing_folder(place)  # says that it is not there
    is_folder = place.is_dir() or is_archive(place)
    folder = existing_folder(place) if is_folder else place
    entries = [entry for entry in names("datasets") if entry not in GENERAL]
    for entry in (*entries, *GENERAL):
        data = source(entry)
        # A file, or what stands for several files or folders, is none of the published sets
        name = data.recognise(folder, columns) if is_folder or data.own else None
        if name:
            return source(name).with_columns(columns), name
    existing_folder(place)
    if columns:
        flags = " ".join(f"--{flag} {column}" for flag, column in columns.items())
        raise ValueError(
            f"{path} holds nothing with the columns {flags}: say which --dataset it is"
        )
    left_out = unopened_images(Node(folder))
    hint = f"; left out: {listed(left_out)}" if left_out else ""
    raise ValueError(f"{path} holds no images that any entry of datasets/ would read{hint}")


def splits_of(data: Source, path: str) -> tuple[str, ...]:
    if not data.labelled:
        return ("train",)
    return (*SPLITS, "val") if data.has_validation(path) else SPLITS


def report(
    data: Source, r: Recipe, split: str, asked: Conversion, listings: dict[str, Listing]
) -> dict[str, Any]:
    """What a split holds, or the error that reading it gives. Its files are put into `listings`."""
    try:
        listing = data.listing(r.path, split)
        if listing is not None:
            listings[split] = listing
            return look(listing, r, asked)
        return report_resident(data.load(r.path, split))
    except (ValueError, FileNotFoundError) as error:
        if split == "train":
            raise
        return {"error": str(error)}


def look(listing: Listing, r: Recipe, asked: Conversion) -> dict[str, Any]:
    """What the files of a listing hold."""
    shape = (32, 32) if r.image_size is None else height_width(r.image_size)
    return survey(listing, r.decode, r.workers, asked, shape)


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


def commands(name: str, data: Source, r: Recipe, reports: dict[str, dict]) -> list[str]:
    """The commands of both stages, of the first alone where there are no labels; of a test split alone --eval.

    For one's own images --recipe auto chooses the image size.
    """
    flags = {"dataset": name, "datapath": r.path, **r.columns}
    images = " ".join(f"--{flag} {shlex.quote(value)}" for flag, value in flags.items())
    if not is_to_train_on(reports):
        return [
            f"python finetune.py --eval {images} --pretrained_weights RUN --output_dir RUN-scores"
        ]
    counts, size = reports["train"], ""
    if r.image_size is not None:
        size = f" --image_size {typed(r.image_size)}"
    elif not data.own:
        size = f" --image_size {largest_size(counts['short_side'])}"
    run_folder = shlex.quote(f"runs/{run_name(r.path, data)}")
    first = f"python train_ssl.py {images}{size} --output_dir {run_folder}"
    second = f"python finetune.py {images} --pretrained_weights {run_folder} --output_dir {run_folder}-ft"
    return [first, second] if counts["classes"] else [first]


def run_name(path: str, data: Source) -> str:
    """What to call a run on a path: as the folder, archive or data set of the images is called."""
    if not data.own:
        return data.entry
    end = min((path.find(character) for character in PATTERNS if character in path), default=None)
    place = Path(path[:end]).expanduser().resolve()
    if place.is_file() and is_table(place.name):
        place = place.parent  # labels.csv says less than the folder around it
    for folder in (place, *place.parents):
        stem = folder.name
        for ending in (*ARCHIVES, ".lmdb", *TABLES):
            stem = stem.removesuffix(ending)
        name = re.sub(r"[^\w.-]+", "_", stem).strip("._-")
        if name and not is_split_name(name):
            return name
    return data.entry


def largest_size(side: int) -> int:
    """The largest of the usual sizes in pixels that images of this side have, at least the smallest of them."""
    return max((size for size in SIZES if size <= side), default=min(SIZES))
