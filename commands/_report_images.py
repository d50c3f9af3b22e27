"""The images that a report looks at, with their names: a part of each split. n images of C channels."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from multicrop.commands._image_stream import ImageStream, decoded_files, stored_images
from multicrop.commands._origin import DataOrigin
from multicrop.commands._targets import spread
from multicrop.config.sizes import ImageSize, height_width
from multicrop.datasets._given import Given
from multicrop.datasets._images import LoadOptions
from multicrop.datasets._survey import survey

MEMORY = 2**30  # bytes of pixels of a split
BATCH = 256


@dataclass(frozen=True)
class SplitImages:
    """Images that can be read, and the reasons of those that cannot."""

    split: str
    pixels: Tensor
    """uint8 (n, C, H, W)."""
    labels: Tensor | None
    """int64 (n,); None without labels."""
    classes: tuple[str, ...]
    names: list[str]
    total: int
    """Images of the split, of which these are some, spread evenly."""
    unreadable: dict[str, str] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    """What the headers of their files say, as `multicrop check` counts it; empty where there are none."""

    def __len__(self) -> int:
        return len(self.names)

    def class_of(self, image: int) -> str:
        return "" if self.labels is None else self.classes[int(self.labels[image])]

    @property
    def looked_at(self) -> str:
        """How many these are, in words."""
        some = "" if len(self) + len(self.unreadable) == self.total else f" of {self.total:,}"
        return f"{len(self):,}{some} {self.split} images"


def read_split(
    origin: DataOrigin, split: str, side: ImageSize, most: int, workers: int | None = None
) -> SplitImages:
    """At most so many images of a split, at this size in px. ValueError where none can be read, or there is none."""
    height, width = height_width(side)
    most = max(1, min(most, MEMORY // (max(origin.conversion.channels, 3) * height * width)))
    listing: Any = origin.source.listing(origin.datapath, split)
    if listing is None:
        return _of_stored(origin, split, side, most)
    chosen = spread(len(listing.names), most)
    part = Given(listing.root, [listing.names[index] for index in chosen])
    labels = None if listing.labels is None else torch.tensor(listing.labels)[chosen]
    with decoded_files([part], origin.conversion, side, workers) as stream:
        pixels, rows, unreadable = _read(stream)
    if not len(rows):
        raise ValueError(f"none of the {split} images can be read")
    names = [stream.names[int(row)] for row in rows]
    labels = None if labels is None else labels[rows]
    sampled = replace(listing, names=part.names, labels=None)
    files = survey(sampled, decode=False)
    return SplitImages(
        split,
        pixels,
        labels,
        listing.classes if labels is not None else (),
        names,
        len(listing.names),
        unreadable,
        files,
    )


def _of_stored(origin: DataOrigin, split: str, side: ImageSize, most: int) -> SplitImages:
    """Of a data set whose images are no files of their own."""
    images = origin.source.load(
        origin.datapath, split, LoadOptions(source_size=side, conversion=origin.conversion)
    )
    chosen = spread(len(images), most)
    names = stored_images(images, split).names
    labels = None if images.labels is None else images.labels[chosen]
    names_chosen = [names[index] for index in chosen.tolist()]
    return SplitImages(
        split, images.pixels[chosen], labels, images.classes, names_chosen, len(images)
    )


def _read(stream: ImageStream) -> tuple[Tensor, Tensor, dict[str, str]]:
    """The pixels of all images that can be read, which these are, and of the others the reason by name."""
    pixels, rows = [], []
    unreadable: dict[str, str] = {}
    for batch in stream.batches(0, len(stream), BATCH):
        readable = [row for row in range(len(batch.pixels)) if row not in batch.errors]
        pixels.append(batch.pixels[readable])
        rows += [batch.start + row for row in readable]
        unreadable |= {stream.names[batch.start + row]: why for row, why in batch.errors.items()}
    return torch.cat(pixels), torch.tensor(rows, dtype=torch.long), unreadable
