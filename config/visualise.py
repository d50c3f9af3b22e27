"""Every setting of `multicrop visualise`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .checks import AT_LEAST_1, NOT_NEGATIVE, check_values


@dataclass(frozen=True)
class Recipe:
    """Pictures of a pretraining run."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of a pretraining."""
    images: int = 6
    """Rows of the pictures."""
    split: str = "test"
    """Split whose images are shown: test (unseen in training) or train."""
    datapath: str | None = None
    """Folder of the data set (None: where the run found it)."""
    seed: int = 0
    """The crops are a function of it."""
    output_dir: str | None = None
    """Folder of the pictures (None: the run folder)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "images")
        check_values(self, NOT_NEGATIVE, "seed")
