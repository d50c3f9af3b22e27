"""Weights that others have published, by name: the table of published.yaml, and their files in a cache of this machine.

The cache is $MULTICROP_CACHE/weights, else ~/.cache/multicrop/weights.
"""

import difflib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import yaml

from ..engine.metadata import Metadata
from .download import download

PREFIX = "published:"
TABLE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One published file and what its authors say of it."""

    name: str
    url: str
    sha256: str | None
    """Of what the url gives, where somebody states it."""
    backbone: dict[str, Any]
    """Arguments of registry.backbone, but for in_channels."""
    dataset: str
    classes: int
    mean: list[float]
    std: list[float]
    crop_pct: float
    top1: float
    """Published accuracy in percent."""
    source: str
    """The page that publishes it."""
    license: str | None
    """As that page states it, None where it states none."""

    @property
    def path(self) -> Path:
        """Where the cache has the file; it need not be there yet."""
        root = os.environ.get("MULTICROP_CACHE") or "~/.cache/multicrop"
        return Path(root).expanduser() / "weights" / f"{self.name}.pth"

    def fetch(self) -> Path:
        """The path of the file, which is downloaded where the cache does not have it; errors as `download`'s."""
        download(self.url, self.path, self.sha256, self.source)
        return self.path

    def metadata(self) -> Metadata:
        """What the file itself does not say: its network, and how that sees images."""
        backbone = {**self.backbone, "in_channels": 3}
        colours = {"mean": self.mean, "std": self.std, "crop_pct": self.crop_pct}
        return Metadata(kind="", backbone=backbone, data={"dataset": self.dataset, **colours})


def is_name(path: str | PurePath) -> bool:
    """Whether it is published:NAME and not a path."""
    return str(path).startswith(PREFIX)


def find(name: str | PurePath) -> Published:
    """What published:NAME stands for. ValueError with the nearest name where there is none."""
    name = str(name).removeprefix(PREFIX)
    known = table()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{PREFIX}{name}: no such weights; {hint}`multicrop weights` lists all")
    return known[name]


def matching(words: tuple[str, ...]) -> list[Published]:
    """Those that have each word, in any case, in their name, architecture, data set or page."""
    found = []
    for row in table().values():
        text = " ".join((row.name, row.backbone["arch"], row.dataset, row.source)).lower()
        if all(word.lower() in text for word in words):
            found.append(row)
    return found


def first_of(arch: str) -> str | None:
    """published:NAME of the first file in the table for an architecture, None where there is none."""
    for row in table().values():
        if row.backbone["arch"] == arch:
            return PREFIX + row.name
    return None


@cache
def table() -> dict[str, Published]:
    """Every published file by its name."""
    rows = {}
    for page in yaml.safe_load(TABLE.read_text(encoding="utf-8")):
        origin = {"source": page["source"], "license": page["license"]}
        for name, facts in page["files"].items():
            rows[name] = Published(name=name, **origin, **facts)
    return rows
