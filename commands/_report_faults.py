"""What may be wrong with the images of a report: near-duplicates, suspect labels, outliers.

D width of features.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multicrop.commands._report_block import attempt
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import SplitImages
from multicrop.commands._report_tiles import tile, under
from multicrop.config.report import Looking
from multicrop.engine.files import atomic_write
from multicrop.pictures.page import Block, Tile, Tiles, Words
from multicrop.probes import near_duplicates, outliers, suspect_labels

SHOWN = 24  # groups or images of a grid


def blocks(
    splits: Sequence[SplitImages], comparing: Comparing, looking: Looking, files: Path
) -> list[Block]:
    """files: the folder for the tables of what is found."""
    every = Every.of(splits)
    found: list[Block] = [
        Words(
            f"Below, {' and '.join(split.looked_at for split in splits)} are compared with each other by "
            f"{comparing.words}. What is found is a proposal to look at, also in the tables beside this page."
        )
    ]
    features: list[Tensor] = []  # of the network, and for comparing

    def find_features() -> list[Block]:
        whole = every.images
        features.append(comparing.features(whole))
        features.append(comparing.with_pixels(features[0], whole))
        return []

    found += attempt("features", find_features)
    to_compare = features[-1] if features else None
    found += attempt("near-duplicates", lambda: duplicates(every, to_compare, looking, files))
    if features:
        found += attempt(
            "suspect labels", lambda: suspects(every, features[-1], comparing, looking, files)
        )
        found += attempt("outliers", lambda: unlike(every, features[0], looking, files))
    return found


@dataclass(frozen=True)
class Every:
    """The images of all splits in one row."""

    splits: Sequence[SplitImages]
    places: list[tuple[int, int]]
    """Of each its split and its number there."""

    @classmethod
    def of(cls, splits: Sequence[SplitImages]) -> "Every":
        return cls(
            splits,
            [(part, image) for part, split in enumerate(splits) for image in range(len(split))],
        )

    def split(self, index: int) -> str:
        return self.splits[self.places[index][0]].split

    def name(self, index: int) -> str:
        part, image = self.places[index]
        return self.splits[part].names[image]

    def class_of(self, index: int) -> str:
        part, image = self.places[index]
        return self.splits[part].class_of(image)

    def tile(self, index: int, *words: str) -> Tile:
        """With the end of its name and these words."""
        part, image = self.places[index]
        split = self.splits[part]
        return tile(split, image, under(split.names[image], *words))

    @cached_property
    def images(self) -> SplitImages:
        """All of them as one split, brought to the size of the first."""
        first = self.splits[0]
        sides = first.pixels.shape[-2:]
        pixels = torch.cat([resized(split.pixels, sides) for split in self.splits])
        names = [name for split in self.splits for name in split.names]
        return SplitImages("all", pixels, None, (), names, len(names))


def resized(pixels: Tensor, sides: Sequence[int]) -> Tensor:
    """uint8 (n, C, H, W) of these sides in px."""
    if pixels.shape[-2:] == torch.Size(sides):
        return pixels
    size = list(sides)
    brought = F.interpolate(
        pixels.float(), size, mode="bilinear", antialias=True, align_corners=False
    )
    return brought.round().clamp(0, 255).byte()


def duplicates(
    every: Every, features: Tensor | None, looking: Looking, files: Path
) -> Iterator[Block]:
    pairs = near_duplicates.near_duplicates(every.images.pixels, features, looking.duplicates)
    members = near_duplicates.groups(pairs)
    across = [group for group in members if len({every.split(image) for image in group}) > 1]
    labels = [group for group in members if len({every.class_of(image) for image in group}) > 1]
    too_good = ", so that accuracies are better than on new images" if across else ""
    yield Words(
        f"Near-duplicates (fine structure alike by {looking.duplicates:g} or more, also mirrored or shifted): "
        f"{len(members):,} groups of {sum(map(len, members)):,} images; {len(across):,} of them lie in several "
        f"splits{too_good}; {len(labels):,} have several labels."
    )
    rows = [
        [every.split(p.first), every.name(p.first), every.class_of(p.first),
         every.split(p.second), every.name(p.second), every.class_of(p.second), round(p.similarity, 4), p.mirrored]
        for p in pairs
    ]  # fmt: skip
    head = ["split", "image", "class", "split_2", "image_2", "class_2", "similarity", "mirrored"]
    write_csv(files / "near_duplicates.csv", head, rows)
    chosen = sorted(members, key=lambda group: (group not in across, group not in labels))
    if chosen:
        groups = [
            (
                "",
                [
                    every.tile(image, every.split(image), every.class_of(image))
                    for image in group[:10]
                ],
            )
            for group in chosen[:SHOWN]
        ]
        yield Tiles(f"Near-duplicates, those in several splits first{_of(chosen)}", groups)


def suspects(
    every: Every, features: Tensor, comparing: Comparing, looking: Looking, files: Path
) -> Iterator[Block]:
    labels = [split.labels for split in every.splits if split.labels is not None]
    if len(labels) < len(every.splits):
        raise ValueError("there are images without labels")
    judged = suspect_labels.suspect_labels(features, torch.cat(labels), looking.seed)
    found = judged.suspects
    classes = every.splits[0].classes
    yield Words(
        f"Suspect labels: of {len(every.places):,} images, {len(found):,} whose class is doubted both by a classifier "
        f"that has not seen them and by at least nine of their {suspect_labels.NEIGHBOURS} nearest neighbours. That "
        f"classifier is right for {judged.accuracy:.0%}: the lower that is, the more of these labels are right."
    )
    if comparing.has_learned_labels:
        yield Words(
            "These features have learned from the training labels, wrong ones too: fewer are found than by features of "
            "stage one (--network)."
        )
    rows = [
        [every.split(s.image), every.name(s.image), classes[s.label], classes[s.proposed],
         round(s.margin, 4), round(s.agreeing, 2)]
        for s in found
    ]  # fmt: skip
    head = ["split", "image", "class", "proposed", "margin", "neighbours_of_its_class"]
    write_csv(files / "suspect_labels.csv", head, rows)
    if found:
        tiles = [
            every.tile(s.image, f"{classes[s.label]}, or {classes[s.proposed]}?")
            for s in found[:SHOWN]
        ]
        yield Tiles(f"Suspect labels, the most doubtful first{_of(found)}", [("", tiles)])


def unlike(every: Every, features: Tensor, looking: Looking, files: Path) -> Iterator[Block]:
    found = outliers.outliers(features, every.images.pixels, looking.outlier)
    yield Words(
        f"Outliers: of {len(every.places):,} images, {len(found):,} by {looking.outlier:g} deviations or more farther "
        "from their nearest neighbours than images are here."
    )
    rows = [
        [every.split(o.image), every.name(o.image), every.class_of(o.image), round(o.score, 2)]
        for o in found
    ]
    write_csv(files / "outliers.csv", ["split", "image", "class", "deviations"], rows)
    if found:
        tiles = [
            every.tile(o.image, every.class_of(o.image), f"{o.score:.1f}") for o in found[:SHOWN]
        ]
        yield Tiles(f"Outliers, the farthest first{_of(found)}", [("", tiles)])


def _of(found: Sequence[Any]) -> str:
    return f"; {SHOWN} of {len(found):,}" if len(found) > SHOWN else ""


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))
