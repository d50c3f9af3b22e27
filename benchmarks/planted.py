"""What `multicrop report` finds of faults that were put into real sets: near-duplicates, wrong labels, foreign images.

    python -m benchmarks.planted --datapath sets --sets neu_det gtsrb malaria50 --foreign cifar100_png

Into a copy of each set's training split (links to its files) go 30 files that are images of it encoded anew, a third of
them mirrored and a third shifted by up to a tenth, 10 images of the foreign set, and 30 of its images move to another
class. Found and missed are counted at the default thresholds and others; what else is found as a near-duplicate may
be a real one, and is counted apart. A line of JSON for each set.
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._machine import machine
from multicrop import cli
from multicrop.commands._conversion import conversion_of
from multicrop.commands._origin import DataOrigin
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import read_split
from multicrop.config.data import DataSettings
from multicrop.engine import ranks
from multicrop.probes import near_duplicates, outliers, suspect_labels
from multicrop.weights import pretrained

DUPLICATES, SWAPPED, FOREIGN = 30, 30, 10
QUALITY = 75  # of the JPEG files that are written
SHIFT = 0.1  # of the shorter side, the largest


@dataclass(frozen=True)
class Recipe:
    """Count what is found of planted faults."""

    datapath: str = "data"
    """Folder of the unpacked sets, each by its name: {train,test}/<class>/*."""
    sets: tuple[str, ...] = ("neu_det", "gtsrb", "malaria50")
    """Names of folders there."""
    foreign: str = "cifar100_png"
    """The set whose images are foreign to the others."""
    networks: tuple[str, ...] = ()
    """A run for each set, by whose features images are compared (none: random convolutions and raw pixels)."""
    images: int = 10000
    """Most images of a set."""
    seed: int = 0
    """Which images are chosen is a function of it."""
    output: str | None = None
    """File of the lines (None: they are printed alone)."""

    def __post_init__(self):
        if self.networks and len(self.networks) != len(self.sets):
            raise ValueError("--networks: give a run for each of --sets")


@dataclass(frozen=True)
class Planted:
    """Names of what was put in, as the set's images are called."""

    copies: dict[str, str]
    """Of each copy its original."""
    kinds: dict[str, str]
    """Of each copy how it was made."""
    swapped: frozenset[str]
    foreign: frozenset[str]


def run(recipe: Recipe) -> dict[str, Any]:
    device = ranks.start("cpu")
    lines = []
    for number, name in enumerate(recipe.sets):
        file = pretrained.read(recipe.networks[number]) if recipe.networks else None
        comparing = Comparing(file, recipe.seed, device)
        with TemporaryDirectory() as work:
            planted = plant(Path(recipe.datapath), name, recipe, Path(work))
            lines.append(
                {
                    "set": name,
                    "features": comparing.words,
                    **measure(Path(work), planted, comparing, recipe),
                }
            )
        lines[-1] |= {"seed": recipe.seed, "machine": machine(device)}
        ranks.log(json.dumps(lines[-1]))
    if recipe.output:
        with open(recipe.output, "a") as output:
            output.writelines(json.dumps(line) + "\n" for line in lines)
    return {"status": "finished", "lines": len(lines)}


# Planting


def plant(datapath: Path, name: str, recipe: Recipe, work: Path) -> Planted:
    """The training split of a set as links below work/train, and what is put between them."""
    chance = random.Random(recipe.seed)
    files = sorted(path for path in (datapath / name / "train").glob("*/*") if path.is_file())
    files = chance.sample(files, min(len(files), recipe.images))
    chosen = chance.sample(files, DUPLICATES + SWAPPED)
    originals, to_swap = chosen[:DUPLICATES], set(chosen[DUPLICATES:])
    classes = sorted({file.parent.name for file in files})
    swapped, copies, kinds, foreign = set(), {}, {}, set()
    for file in files:
        class_name = file.parent.name
        if file in to_swap:
            class_name = chance.choice([other for other in classes if other != class_name])
            swapped.add(f"{class_name}/{file.name}")
        link(file, work / "train" / class_name / file.name)
    for file in (datapath / name / "test").glob("*/*"):  # else a part of train is held out
        link(file, work / "test" / file.parent.name / file.name)
    generator = np.random.default_rng(recipe.seed)
    for number, original in enumerate(originals):
        kind, change = CHANGES[number % len(CHANGES)]
        copy = f"{original.parent.name}/zz_copy_{number}.jpg"
        with Image.open(original) as image:
            changed = change(image.convert("RGB"), generator)
        changed.save(work / "train" / copy, quality=QUALITY)
        copies[copy], kinds[copy] = f"{original.parent.name}/{original.name}", kind
    others = sorted((datapath / recipe.foreign / "train").glob("*/*"))
    for number, other in enumerate(chance.sample(others, FOREIGN)):
        name_here = f"{chance.choice(classes)}/zz_foreign_{number}{other.suffix}"
        link(other, work / "train" / name_here)
        foreign.add(name_here)
    return Planted(copies, kinds, frozenset(swapped), frozenset(foreign))


def link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(file.resolve(), place)


def unchanged(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image


def mirrored(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def shifted(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """By whole pixels; the border is repeated."""
    most = max(1, round(SHIFT * min(image.size)))
    down, right = generator.integers(-most, most + 1, 2)
    rows = np.clip(np.arange(image.height) + down, 0, image.height - 1)
    columns = np.clip(np.arange(image.width) + right, 0, image.width - 1)
    return Image.fromarray(np.asarray(image)[rows][:, columns])


Change = Callable[[Image.Image, np.random.Generator], Image.Image]
CHANGES: tuple[tuple[str, Change], ...] = (
    ("encoded", unchanged), ("mirrored", mirrored), ("shifted", shifted)
)  # fmt: skip


# Measuring


def measure(work: Path, planted: Planted, comparing: Comparing, recipe: Recipe) -> dict[str, Any]:
    metadata = comparing.file.metadata if comparing.file else None
    conversion = conversion_of(DataSettings(), "image_folder", metadata)
    origin = DataOrigin("image_folder", str(work), None, (), conversion)
    images = read_split(origin, "train", comparing.source_size, 2 * recipe.images)
    assert images.labels is not None
    names = [f"{Path(name).parent.name}/{Path(name).name}" for name in images.names]
    begun = time.process_time()
    features = comparing.features(images)
    to_compare = comparing.with_pixels(features, images)
    result: dict[str, Any] = {"images": len(images), "near_duplicates": {}, "outliers": {}}

    wanted = {frozenset(pair) for pair in planted.copies.items()}
    pairs = near_duplicates.near_duplicates(images.pixels, to_compare, threshold=0.8)
    for threshold in (0.8, 0.85, 0.9, 0.95):
        found = {
            frozenset((names[p.first], names[p.second])) for p in pairs if p.similarity >= threshold
        }
        missed = [
            planted.kinds[copy]
            for copy, of in planted.copies.items()
            if frozenset((copy, of)) not in found
        ]
        result["near_duplicates"][str(threshold)] = {
            "found": DUPLICATES - len(missed), "missed": sorted(missed), "other_pairs": len(found - wanted)
        }  # fmt: skip

    try:
        judged = suspect_labels.suspect_labels(to_compare, images.labels, recipe.seed)
        suspects = {names[suspect.image] for suspect in judged.suspects}
        result["suspect_labels"] = {
            "found": len(planted.swapped & suspects),
            "others": len(suspects - planted.swapped),
            "held_out_accuracy": round(100 * judged.accuracy, 1),
        }
    except ValueError as error:
        result["suspect_labels"] = {"not_judged": str(error)}
    every = outliers.outliers(features, images.pixels, threshold=3.0)
    for threshold in (3.0, 5.0, 8.0):
        found_names = {names[o.image] for o in every if o.score >= threshold}
        result["outliers"][str(threshold)] = {
            "found": len(planted.foreign & found_names), "others": len(found_names - planted.foreign)
        }  # fmt: skip
    order = [
        names[o.image] for o in outliers.outliers(features, images.pixels, threshold=-1e9)[:FOREIGN]
    ]
    result["outliers"]["found_among_first_10"] = len(planted.foreign & set(order))
    result["processor_seconds"] = round(time.process_time() - begun, 1)
    return result


if __name__ == "__main__":
    cli.main(Recipe, run)
