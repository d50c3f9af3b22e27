"""Every setting of `multicrop advise`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .checks import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_values, require
from .data import Columns

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Recipe(Columns):
    """Try out on your images what to train and whether to pretrain."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder, archive, table, or files of images as docs/datasets.md lists them."""
    dataset: str | None = None
    """The data set that it is (None: what it looks like)."""
    minutes: float | None = None
    """Time for all trials together (None: 10, unless --steps is given)."""
    steps: int | None = None
    """Optimizer steps of all trials together, in place of a time: every accuracy is a function of the seed then."""
    dry: bool = False
    """Look at the images, say which settings follow from them, and train nothing."""
    output_dir: str = "runs/advise"
    """Folder of the trials; what has finished there is not run again."""
    seed: int = 0
    """Weights, order, crops and the split into training and validation images are functions of it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self):
        check_values(self, POSITIVE, "minutes")
        check_values(self, AT_LEAST_1, "steps")
        check_values(self, NOT_NEGATIVE, "seed")
        both = self.minutes is not None and self.steps is not None
        require(not both, "steps", self.steps, "is in place of --minutes: give one of them")

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None where it is one of steps."""
        if self.steps is not None:
            return None
        return 60 * (self.minutes or DEFAULT_MINUTES)
