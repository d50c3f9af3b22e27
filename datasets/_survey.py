"""What a listing holds, found by looking at every file: sizes, unreadable images, class balance."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import _look, _notes
from ._console import progress
from ._convert import AS_PUBLISHED, Conversion, Form
from ._decode import Header, Place, header, size
from ._decode_all import common_size
from ._folders import Listing
from ._places import places
from ._workers import Decoders, processors

SQUARE = (32, 32)  # px, to which images are decoded only to see whether they can be
CHUNK = 512  # images between movements of the progress bar
NAMED = 20  # unreadable images that are named
SAMPLED = 500  # images whose headers say how large a set's images are
Size = tuple[int, int]  # width and height
Unreadable = list[tuple[int, str]]  # index and reason


def survey(
    listing: Listing,
    decode: bool = True,
    workers: int | None = None,
    asked: Conversion = AS_PUBLISHED,
    shape: tuple[int, int] = SQUARE,
) -> dict[str, Any]:
    """Counts, sizes in pixels (smallest, median, largest), bits, channels; with decode=False only headers are read.

    asked: how the images would be converted, shape: to which height and width in px. What that drops or replaces is in
    `notes`, lines for people.
    """
    with (
        TemporaryDirectory() as work,
        places(listing.root.resolve(), listing.names, Path(work)) as image_places,
    ):
        headers, unreadable = _read_headers(image_places)
        look = _look.settle(image_places, headers, asked, shape)
        notes: Mapping[str, float] = {}
        if decode:
            form = Form(shape, False, look.conversion)
            unreadable, notes = _undecodable(image_places, workers or processors(), form)
    named = [f"{listing.names[index]}: {reason}" for index, reason in unreadable[:NAMED]]
    beyond = _look.beyond_centre(headers, shape)
    kinds = _look.kinds_in(headers)
    lines = _notes.conversion_lines(look.conversion, look.measured, beyond, kinds, shape)
    return {
        "images": len(listing.names),
        **_spread([header[:2] for header in headers]),
        "bits": dict(Counter(header.bits for header in headers)),
        "channels": {str(count): n for count, n in Counter(h.channels for h in headers).items()},
        "beyond_centre": beyond,
        "value_range": _notes.stored_ranges(look.conversion),
        "notes": lines + _notes.note_lines(notes),
        "unreadable": len(unreadable),
        "unreadable_images": named,
        "unreadable_classes": _lost_classes(listing, [index for index, _ in unreadable]),
        "empty_classes": list(listing.empty),
        **balance(listing.labels, listing.classes),
    }


def _lost_classes(listing: Listing, unreadable: list[int]) -> list[str]:
    """Classes that have images, none of which can be read."""
    if listing.labels is None:
        return []
    there = Counter(listing.labels)
    lost = Counter(listing.labels[index] for index in unreadable)
    return [listing.classes[label] for label, count in lost.items() if count == there[label]]


def shared_size(listing: Listing, shape: Size) -> Size:
    """The height and width in which images are stored that would be brought to `shape`, as a sample of headers says."""
    with _sample(listing, _look.HEADERS) as image_places:
        return common_size(_look.headers(image_places), shape) or shape


@contextmanager
def _sample(listing: Listing, most: int) -> Iterator[list[Place]]:
    """At most so many of the images, spread evenly."""
    names = _look.spread(listing.names, most)
    with (
        TemporaryDirectory() as work,
        places(listing.root.resolve(), names, Path(work)) as image_places,
    ):
        yield image_places


def typical_side(listing: Listing) -> int:
    """The median of the shorter sides in pixels, of some images spread evenly. ValueError where none can be read."""
    with _sample(listing, SAMPLED) as image_places:
        sizes = [size(place) for place in image_places]
    count = len(sizes)
    sides = [min(width_and_height) for width_and_height in sizes if width_and_height]
    if not sides:
        raise ValueError(f"none of {count} images in {listing.root} has a header that can be read")
    return int(statistics.median(sides))


def _read_headers(image_places: list[Place]) -> tuple[list[Header], Unreadable]:
    """The headers of all images that have one, and (index, reason) of the others."""
    headers, unreadable = [], []
    with progress(len(image_places), "reading sizes") as bar:
        for index, place in enumerate(image_places):
            found = header(place)
            if found is None:
                unreadable.append((index, "no image header"))
            else:
                headers.append(found)
            bar.update()
    return headers, unreadable


def _undecodable(
    image_places: list[Place], workers: int, form: Form
) -> tuple[Unreadable, Mapping[str, float]]:
    """(index, reason) of the images that cannot be decoded, and what was dropped of the others."""
    decoders = Decoders(workers, form)
    unreadable: Unreadable = []
    notes: Counter[str] = Counter()
    count = len(image_places)
    with progress(count, "decoding") as bar:
        for start in range(0, count, CHUNK):
            chunk = image_places[start : start + CHUNK]
            rows = decoders.decode(chunk)
            for row, reason in rows.unreadable:
                unreadable.append((start + row, reason))
            notes.update(rows.notes)
            bar.update(len(chunk))
    return unreadable, notes


def _spread(sizes: list[Size]) -> dict[str, Any]:
    """Sizes of all images; nothing when there are none."""
    if not sizes:
        return {}
    short_sides = [min(width_and_height) for width_and_height in sizes]
    return {
        "width": _smallest_median_largest([width for width, _ in sizes]),
        "height": _smallest_median_largest([height for _, height in sizes]),
        "short_side": int(statistics.median(short_sides)),
        "square": all(width == height for width, height in sizes),
    }


def _smallest_median_largest(values: list[int]) -> list[int]:
    """In pixels, the median rounded down."""
    median = int(statistics.median(values))
    return [min(values), median, max(values)]


def balance(labels: Sequence[int] | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """Images of each class: their number, the fewest, the most, and all by name."""
    if labels is None:
        return {"classes": 0}
    counts = Counter(labels)
    per_class = {name: counts[label] for label, name in enumerate(classes)}
    return {
        "classes": len(per_class),
        "fewest": min(per_class.values()),
        "most": max(per_class.values()),
        "per_class": per_class,
    }
