"""Every setting of `multicrop report`."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .checks import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, check_values, require
from .data import DataSettings
from .machine import Machine

Part = Literal["run", "learned", "classifier", "data"]
PARTS: tuple[Part, ...] = ("run", "learned", "classifier", "data")


@dataclass(frozen=True)
class Page:
    """The page."""

    output: str | None = None
    """The page's file; its pictures lie in a folder beside it (None: report.html in the run folder, of a data set
    runs/report/NAME/report.html)."""
    parts: tuple[Part, ...] = PARTS
    """What is on it."""
    watch: bool = False
    """Rewrite the part about the run while it goes on, then the whole page."""
    every: float = 10.0
    """Seconds between two looks at a run that is watched."""

    def __post_init__(self):
        check_values(self, POSITIVE, "every")
        require(len(self.parts) > 0, "parts", "", f"needs at least one of {', '.join(PARTS)}")
        html = self.output is None or self.output.endswith((".html", ".htm"))
        require(html, "output", self.output, "must end in .html")


@dataclass(frozen=True)
class Looking:
    """What is looked for in the images."""

    network: str | None = None
    """Run or checkpoint by whose features a data set is looked at (None: random convolutions and raw pixels)."""
    images: int = 4000
    """Most images of a split that are looked at, spread evenly over it."""
    map_images: int = 600
    """Most images of the map of test images."""
    duplicates: float = 0.9
    """Similarity of fine structure from which two images count as one, within 0 and 1."""
    outlier: float = 5.0
    """Deviations above the median distance to neighbours from which an image counts as unlike the others."""
    seed: int = 0
    """Random weights, crops, folds and the map are functions of it."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "images", "map_images")
        check_values(self, SHARE, "duplicates")
        check_values(self, POSITIVE, "outlier")
        check_values(self, NOT_NEGATIVE, "seed")


@dataclass(frozen=True)
class Recipe:
    """One page about a data set, a run, or several runs: report.html, which opens anywhere and loads nothing."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A folder or file of images, the folder of a run, or the folders of several runs."""
    page: Page = Page()
    looking: Looking = Looking()
    data: DataSettings = DataSettings()
    machine: Machine = Machine()

    def __post_init__(self):
        if not self.paths:
            raise ValueError(
                "name a folder of images, a run or several runs: multicrop report PATH"
            )
        several = len(self.paths) > 1
        require(not (several and self.page.watch), "watch", True, "is for one run")
