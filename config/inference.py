"""Which images a trained network is shown, and how: parts of the recipes of predict and embed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from .backbone import BackboneSettings
from .checks import AT_LEAST_1, check_values, require
from .data import Columns, DataSettings, ImageFiles
from .machine import Machine, Precision
from .sizes import ImageSize

SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class ImageSource(Columns, ImageFiles):
    """The images: files, folders, archives and tables are named before the flags, a data set by --dataset."""

    dataset: str | None = None
    """Name of a data set that is read in place of IMAGES; multicrop check PATH says which."""
    datapath: str | None = None
    """Its folder (None: the network's own if it has the same data set, else ./data)."""
    source_size: int | None = None
    """Side in pixels to which image files are brought before the network's own transform (None: as in its run)."""
    workers: int | None = None
    """Processes per rank that decode images (None: one per processor)."""
    value_range: tuple[float, float] | None = None
    """Values that become black and white, of image files of any number of bits (None: as for the weights, else
    measured on these images where files have more than 8 bits)."""
    split: str | None = None
    """train, test or val of --dataset (None: test, or all of what is not split)."""

    def __post_init__(self):
        super().__post_init__()
        words = f"is none of {', '.join(SPLITS)}"
        require(self.split is None or self.split in SPLITS, "split", self.split, words)

    def settings(self) -> DataSettings:
        """The same for whoever loads data sets."""
        names = [field.name for field in fields(DataSettings) if hasattr(self, field.name)]
        return DataSettings(**{name: getattr(self, name) for name in names})

    def paths(self, model: str, images: tuple[str, ...]) -> list[str]:
        """What a command reads."""
        return [path for path in (model, *images, self.datapath) if path]

    def check(self, images: tuple[str, ...]) -> None:
        """ValueError unless images are named in one of the two ways."""
        if images and self.dataset:
            raise ValueError(
                f"--dataset {self.dataset} and {images[0]}: give one of them (--datapath is the data set's folder)"
            )
        if not (images or self.dataset):
            raise ValueError(
                "no images: name files, folders, archives or a table after the model, or a data set by --dataset"
            )
        for name in ("datapath", "split"):
            value = getattr(self, name)
            require(value is None or self.dataset, name, value, "is for --dataset")


@dataclass(frozen=True)
class Network(BackboneSettings):
    """The network of another program's file; a checkpoint of ours says all of it."""

    image_size: ImageSize | None = None
    """Side in pixels to which images are brought, or height and width (None: the checkpoint's, else the architecture's
    own)."""


@dataclass(frozen=True)
class Weights:
    """Which weights."""

    checkpoint_key: str = "teacher"
    """Which network of a file that holds several: teacher or student of stage one, average of stage two, or the name
    of any part of another program's file."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""


@dataclass(frozen=True)
class InferenceMachine(Machine):
    """The machine."""

    batch_size: int = 256
    """Images per forward pass and process."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "batch_size")


def format_of(output: str, stated: str | None, formats: Mapping[str, tuple[str, ...]]) -> str:
    """The format of --output: what is stated, else what its ending says; the first where it says nothing (-).

    formats: of each the endings that files may have. ValueError for another ending.
    """
    if stated:
        return stated
    if output == "-":
        return next(iter(formats))
    for name, endings in formats.items():
        if output.lower().endswith(endings):
            return name
    words = f"must end in {', '.join(ending for all_ in formats.values() for ending in all_)}, or give --format"
    raise ValueError(f"--output {output}: {words}")
