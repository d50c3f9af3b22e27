"""Files of a data set that are the same to the last byte, links to one file among them: copies."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ._bytes import Place, content, size_of
from ._console import progress
from ._decode import size
from ._folders import Listing
from ._places import places


class Image(NamedTuple):
    """One of several that are the same."""

    split: str
    name: str
    label: str | None
    """The name of its class; None without labels."""


def copies(listings: Mapping[str, Listing]) -> list[list[Image]]:
    """The groups of images, of all splits, that are copies of each other; files that are no images are not looked at.

    Only files of equal length are read.
    """
    groups: dict[bytes, list[Image]] = defaultdict(list)
    with TemporaryDirectory() as work, ExitStack() as stack:
        by_length: dict[int, list[tuple[Place, Image]]] = defaultdict(list)
        for split, listing in listings.items():
            own = Path(work, split)
            own.mkdir()
            image_places = stack.enter_context(places(listing.root.resolve(), listing.names, own))
            for index, place in enumerate(image_places):
                image = Image(split, listing.names[index], _class_of(listing, index))
                by_length[_length(place)].append((place, image))
        alike = [images for images in by_length.values() if len(images) > 1]
        with progress(sum(map(len, alike)), "looking for copies") as bar:
            for images in alike:
                for place, image in images:
                    bar.update()
                    key = _digest(place)
                    if key is not None and (key in groups or size(place) is not None):
                        groups[key].append(image)
    return [images for images in groups.values() if len(images) > 1]


def conflicting(groups: list[list[Image]]) -> list[list[Image]]:
    """Those with several labels: one of each label."""
    kept = []
    for images in groups:
        of_label: dict[str | None, Image] = {}
        for image in images:
            of_label.setdefault(image.label, image)
        if len(of_label) > 1:
            kept.append(list(of_label.values()))
    return kept


def across_splits(groups: list[list[Image]]) -> list[list[Image]]:
    """Those that are in the training split and in another one: the first of each split, the training image first."""
    kept = []
    for images in groups:
        of_split: dict[str, Image] = {}
        for image in sorted(images, key=lambda image: image.split != "train"):
            of_split.setdefault(image.split, image)
        if len(of_split) > 1 and "train" in of_split:
            kept.append(list(of_split.values()))
    return kept


def _class_of(listing: Listing, index: int) -> str | None:
    return None if listing.labels is None else listing.classes[listing.labels[index]]


def _length(place: Place) -> int:
    """Bytes of an image's file; -1 of one that is not there any more."""
    try:
        return size_of(place)
    except OSError:
        return -1


def _digest(place: Place) -> bytes | None:
    """Of an image's file; None where it cannot be read."""
    try:
        return blake2b(content(place), digest_size=16).digest()
    except (OSError, ValueError):
        return None
