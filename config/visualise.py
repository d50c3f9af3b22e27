"""Every setting of `multicrop visualise`."""

from dataclasses import dataclass
from typing import Annotated

import tyro


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
