"""Every file below a folder: which images are used, and why the others are left out."""

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from ._console import say_once
from ._endings import needed
from ._tree import HIDDEN, LINK, Node, count_files

Why = Callable[[str], str]  # (relative name of an image that is not used) -> the reason


@dataclass(frozen=True)
class Inventory:
    """used + left out = the files that are there."""

    files: int
    """All below the folder; a link that is not followed is one."""
    used: int
    """Images of all splits, readable or not."""
    left_out: dict[str, int]
    """Files of each reason."""


def take_inventory(top: Node, used: Iterable[str], why: Why) -> Inventory:
    """Count all that is below `top`, folders that are not entered included. used: relative names of images."""
    used = set(used)
    reasons = unused_images(top, used, why)
    for _, node in top.nodes():
        for ending, count in node.content.others.items():
            reasons[_why_no_image(ending)] += count
        reasons["hidden"] += node.content.hidden
        reasons["broken link"] += node.content.broken
        for name, kind in node.ignored.items():
            if kind == LINK:
                reasons[LINK] += 1
            else:
                reasons[f"in {kind}s"] += count_files(node.folder / name)
    left_out = {reason: count for reason, count in reasons.most_common() if count}
    return Inventory(len(used) + sum(left_out.values()), len(used), left_out)


def unused_images(top: Node, used: Container[str], why: Why) -> Counter[str]:
    """The number of images below `top` that are not used, by the reason. used: has their relative names."""
    reasons: Counter[str] = Counter()
    for prefix, node in top.nodes():
        reasons.update(why(prefix + name) for name in node.images if prefix + name not in used)
    return reasons


def say_left_out(top: Node, used: Container[str] | None, why: Why) -> None:
    """One line on the images that are not used and the folders that were not entered, if there are any.

    used: has the relative names of the images that are; None: all images are used.
    """
    reasons = unopened_images(top)
    if used is not None:
        reasons = unused_images(top, used, why) + reasons
    folders = [
        f"{prefix}{name} ({kind})"
        for prefix, node in top.nodes()
        for name, kind in node.ignored.items()
        if kind != HIDDEN
    ]
    parts = [listed(reasons)] if reasons else []
    if folders:
        more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
        parts.append(f"folders {', '.join(folders[:5])}{more}")
    if parts:
        say_once(f"left out of {top.folder}: {'; '.join(parts)}")


def unopened_images(top: Node) -> Counter[str]:
    """The number of images below `top` that this Pillow does not open, by ending and remedy."""
    reasons: Counter[str] = Counter()
    for _, node in top.nodes():
        for ending, count in node.content.others.items():
            if needed(ending):
                reasons[_why_no_image(ending)] += count
    return reasons


def listed(reasons: dict[str, int] | Counter[str]) -> str:
    """ "5 .heic (pip install pillow-heif), 2 outside class folders"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _why_no_image(ending: str) -> str:
    remedy = needed(ending)
    name = ending or "without an ending"
    return f"{name} ({remedy})" if remedy else name
