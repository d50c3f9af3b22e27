"""Every setting of `multicrop embed`, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from .checks import NOT_NEGATIVE, check_values, require
from .inference import ImageSource, InferenceMachine, Network, Weights, format_of
from .machine import Precision

FORMATS = {"npz": (".npz",), "parquet": (".parquet",), "safetensors": (".safetensors",)}


@dataclass(frozen=True)
class Embeddings:
    """What is written."""

    output: str = "features.npz"
    """The file."""
    format: Literal["npz", "parquet", "safetensors"] | None = None
    """How it is written (None: as its ending says)."""
    block: int | None = None
    """Take the output of this block, 0 the first, in place of the network's features."""
    stage: int | None = None
    """Take the output of this stage, 0 the first; a network without stages is one."""
    tokens: bool = False
    """One vector for each patch (each place of a feature map), row by row, in place of one for the image."""
    normalize: bool = False
    """Scale each vector to length 1."""

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "block", "stage")
        both = self.block is not None and self.stage is not None
        require(not both, "block", self.block, "is one of a stage's: not with --stage")
        require(self.output != "-", "output", self.output, "must be a file")

    @property
    def file_format(self) -> str:
        return format_of(self.output, self.format, FORMATS)


@dataclass(frozen=True)
class EmbedMachine(InferenceMachine):
    """The machine."""

    precision: Precision = "fp32"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""


@dataclass(frozen=True)
class Recipe:
    """The features of images under a trained network, with the names of their files: those that the k-NN probe uses.

    A row for every image, in their order; that of an image that cannot be read is not a number, and the reason stands
    beside it.
    """

    ALIASES: ClassVar = {"batch_size_per_gpu": "batch_size"}

    model: Annotated[str, tyro.conf.Positional]
    """Run folder or checkpoint of either stage, published:NAME, or another program's file."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Image files, folders, archives or patterns, in this order; or one table that names images."""
    data: ImageSource = ImageSource()
    embeddings: Embeddings = Embeddings()
    weights: Weights = Weights()
    backbone: Network = Network()
    machine: EmbedMachine = EmbedMachine()

    def __post_init__(self):
        self.data.check(self.images)
        _ = self.embeddings.file_format  # an ending that says nothing is said at once
