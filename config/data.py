"""Which images: the settings of a data set, a part of every recipe that reads one."""

from dataclasses import dataclass

from .checks import AT_LEAST_1, check_values


@dataclass(frozen=True)
class DataSettings:
    """The images. What is None follows from what the weights were made with."""

    dataset: str | None = None
    """Name of a data set, see above (None: else shapes, which is embedded); multicrop check PATH says which."""
    datapath: str | None = None
    """Folder of the data set (None: the weights' own if they have the same data set, else ./data)."""
    download: bool = False
    """Fetch the data set where torchvision can."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: what the weights' run was given, else the image size)."""
    stream: bool | None = None
    """Decode image files anew whenever they are needed, in worker processes, instead of storing them (None: what would
    take more than half of this machine's memory)."""
    workers: int | None = None
    """Processes per rank that decode streamed images (None: one per processor)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "source_size", "workers")
