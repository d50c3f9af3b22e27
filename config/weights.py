"""Every setting of `multicrop weights`."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Recipe:
    """List the published weights that --pretrained_weights published:NAME takes."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Only those with each of these words in their name, architecture, data set or page."""
    download: bool = False
    """Also fetch their files into the cache, say for a machine without a network."""
