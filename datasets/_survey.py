"""What a listing holds, found by looking at every file: sizes, unreadable images, class balance."""

import statistics
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from ._decode import size
from ._folders import Listing
from ._places import places
from ._workers import Decoders, processors

SIDE = 32  # to which images are decoded only to see whether they can be
ORDER = 512  # images between movements of the progress bar
NAMED = 20  # unreadable images that are named


def survey(listing: Listing, decode: bool = True, workers: int | None = None) -> dict:
    """Counts, and sizes in pixels (smallest, median, largest); with decode=False only headers are read."""
    with (
        TemporaryDirectory() as work,
        places(listing.root.resolve(), listing.names, Path(work)) as found,
    ):
        sizes = [
            size(place)
            for place in tqdm(found, "sizes", unit=" images", file=sys.stderr, mininterval=0.5)
        ]
        bad = [(i, "no image header") for i, known in enumerate(sizes) if known is None]
        if decode:
            bad = _undecodable(found, workers or processors())
    return {
        "images": len(listing.names),
        **_spread(list(filter(None, sizes))),
        "unreadable": len(bad),
        "unreadable_images": [f"{listing.names[i]}: {reason}" for i, reason in bad[:NAMED]],
        **_balance(listing),
    }


def _undecodable(found: list, workers: int) -> list[tuple[int, str]]:
    decoders, bad = Decoders(workers, SIDE), []
    with tqdm(
        total=len(found), desc="decoding", unit=" images", file=sys.stderr, mininterval=0.5
    ) as bar:
        for start in range(0, len(found), ORDER):
            part = found[start : start + ORDER]
            bad += [(start + row, reason) for row, reason in decoders.decode(part)[1]]
            bar.update(len(part))
    return bad


def _spread(sizes: list[tuple[int, int]]) -> dict:
    if not sizes:
        return {}
    spread = {
        name: [min(values), int(statistics.median(values)), max(values)]
        for name, values in zip(("width", "height"), zip(*sizes, strict=True), strict=True)
    }
    return spread | {
        "short_side": int(statistics.median(map(min, sizes))),
        "square": all(w == h for w, h in sizes),
    }


def _balance(listing: Listing) -> dict:
    """Images of each class."""
    if listing.labels is None:
        return {"classes": 0}
    counts = Counter(listing.labels)
    each = {name: counts[label] for label, name in enumerate(listing.classes)}
    return {
        "classes": len(each),
        "fewest": min(each.values()),
        "most": max(each.values()),
        "per_class": each,
    }
