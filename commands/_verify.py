"""`multicrop check PATH --verify`: every checksum below a path compared, a line for each file; nothing is changed."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from multicrop.datasets import _cache_check, lmdb_
from multicrop.datasets._cache import META, PIXELS
from multicrop.datasets._endings import ending, is_table
from multicrop.datasets._folders import existing_folder
from multicrop.datasets._inventory import listed
from multicrop.datasets._journal import JOURNAL
from multicrop.engine import board, checkpoint, image_record, ranks
from multicrop.engine.run import ATTENTION, METRICS, RECIPE, verify_attention, verify_metrics
from multicrop.engine.starts import STARTS, verify_starts
from multicrop.weights import _maps_check, download
from multicrop.weights.teacher_maps import HEADER

WEIGHTS = (".pt", ".pth", ".pyth", ".ckpt", ".pth.tar")
# Formats of others that have checksums of their own, which are compared when they are decoded
WITH_CHECKSUMS = (".png", ".zip", ".gz", ".tgz", ".bz2", ".xz")
REMEDIES = {
    checkpoint.NEWEST: f"the run's command goes on from {checkpoint.PREVIOUS}",
    checkpoint.PREVIOUS: "the next save of the run replaces it",
}
OF_A_RUN = (RECIPE, checkpoint.NEWEST)  # other programs have files of rows, too
ROWS = {METRICS: verify_metrics, STARTS: verify_starts, ATTENTION: verify_attention}
Compare = Callable[[], str | None]


class Part(NamedTuple):
    """A file, or several that are one, and how it is compared: to words on what was, or None without a checksum."""

    path: Path
    compare: Compare


def verify(path: str) -> dict[str, Any]:
    """The number of parts that are whole and that have no checksum.

    ValueError where some are damaged or cannot be read.
    """
    place = Path(path).expanduser()
    if not place.exists():
        existing_folder(place)  # says that it is not there
    others: Counter[str] = Counter()
    whole = unchecked = damaged = 0
    for part in parts_of(place, others):
        try:
            compared = part.compare()
        except FileNotFoundError:
            if not part.path.is_symlink():
                continue  # a run that goes on has just renamed it
            damaged += 1
            ranks.log(f"not there: {part.path} is a link that leads nowhere")
            continue
        except OSError as error:
            damaged += 1
            ranks.log(f"cannot be read: {part.path}: {error.strerror or error}")
            continue
        except ValueError as error:
            damaged += 1
            ranks.log(f"damaged: {error}")
            continue
        if compared is None:
            unchecked += 1
            ranks.log(f"no checksum: {part.path}, of another program or an older version")
        else:
            whole += 1
            ranks.log(f"whole: {part.path} ({compared})")
    say_others(others)
    if damaged:
        count = whole + unchecked + damaged
        raise ValueError(
            f"{path}: {damaged} of {count} are damaged or cannot be read: the lines above say what to do"
        )
    return {"whole": whole, "unchecked": unchecked, "others": dict(others)}


def parts_of(place: Path, others: Counter[str]) -> Iterator[Part]:
    """What this program wrote below a path and in the image cache of that; `others` counts all other files."""
    if place.is_file():
        yield from parts_in(place.parent, [place.name], others)
    else:
        yield from parts_below(place, others)
    # A table's images lie beside it
    root = place.parent if is_table(place.name) else place
    for entry in _cache_check.entries_of(root):
        if not entry.resolve().is_relative_to(place.resolve()):  # else it was met above
            yield Part(entry, partial(_cache_check.verify_entry, entry))


def parts_below(place: Path, others: Counter[str]) -> Iterator[Part]:
    """Those of a folder and all below it. A folder that cannot be entered is a part that cannot be read."""
    closed: list[OSError] = []
    for folder, names, files in os.walk(place, onerror=closed.append):
        names.sort()
        for name in names:
            if os.path.islink(os.path.join(folder, name)):
                ranks.log(f"not entered: {os.path.join(folder, name)}, a link to a folder")
        yield from parts_in(Path(folder), sorted(files), others)
    for error in closed:
        yield Part(Path(error.filename), partial(_raise, error))


def _raise(error: OSError) -> None:
    raise error


def parts_in(folder: Path, files: list[str], others: Counter[str]) -> Iterator[Part]:
    """Those of one folder."""
    taken: set[str] = set()
    if HEADER in files:
        taken |= {name for name in files if name.endswith(".npy")} | {HEADER}
        yield Part(folder, partial(_maps_check.verify, folder))
    if PIXELS in files and JOURNAL not in files:
        taken |= {PIXELS, META}
        yield Part(folder, partial(_cache_check.verify_entry, folder))
    for name in files:
        if name in taken or name.startswith("."):
            continue
        compare = comparison(folder / name)
        if compare is not None:
            yield Part(folder / name, compare)
        else:
            set_aside = name == checkpoint.DAMAGED and "set aside as damaged"
            others[set_aside or ending(name) or "without an ending"] += 1


def comparison(path: Path) -> Compare | None:
    """How a file is compared, None where it is of no kind that this program writes."""
    if path.name in ROWS and any((path.parent / name).exists() for name in OF_A_RUN):
        return partial(ROWS[path.name], path)
    if path.name == image_record.FILE:
        return partial(image_record.verify, path)
    if path.name.startswith(board.EVENTS):
        return partial(board.verify, path)
    if path.name.endswith(WEIGHTS) and path.name != checkpoint.DAMAGED:
        return partial(verify_weights, path)
    if path.name.endswith(".lmdb") or path.name == "data.mdb":
        return partial(lmdb_.verify, path)
    return None


def verify_weights(path: Path) -> str | None:
    """By the checksum that lies beside it, or its own."""
    try:
        return download.verify(path) or checkpoint.verify(path)
    except ValueError as error:
        remedy = REMEDIES.get(path.name, "put a copy in its place, or remove it")
        raise ValueError(f"{error}: {remedy}") from None


def say_others(others: Counter[str]) -> None:
    """A line on files of other formats, by their endings."""
    for has_checksums, words in (
        (True, "with checksums of their formats, compared as they are decoded, not here"),
        (False, "without checksums"),
    ):
        counts = {
            kind: count
            for kind, count in others.most_common()
            if kind.endswith(WITH_CHECKSUMS) == has_checksums
        }
        if counts:
            ranks.log(f"{words}: {listed(counts)}")
