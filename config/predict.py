"""Every setting of `multicrop predict`, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from .checks import AT_LEAST_1, SHARE, check_values, require
from .inference import ImageSource, InferenceMachine, Network, Weights, format_of

FORMATS = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}


@dataclass(frozen=True)
class Predictions:
    """What is written."""

    output: str = "predictions.csv"
    """The file; - for standard output."""
    format: Literal["csv", "jsonl", "parquet"] | None = None
    """How it is written (None: as its ending says, on standard output csv)."""
    topk: int = 1
    """Also the so many likeliest classes and their probabilities (1: the first only)."""
    tta: bool = False
    """Show each image mirrored, too, and average the probabilities."""
    calibrated: bool = True
    """Divide the logits by the temperature that was fitted on the validation images, where the checkpoint has one."""
    unknown_below: float | None = None
    """The class is `unknown` where its probability is below this."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "topk")
        check_values(self, SHARE, "unknown_below")
        words = "cannot be written to standard output: give a file"
        require(not (self.output == "-" and self.format == "parquet"), "format", "parquet", words)

    @property
    def file_format(self) -> str:
        return format_of(self.output, self.format, FORMATS)


@dataclass(frozen=True)
class Recipe:
    """The classes that a finetuned network sees in images, which need no labels.

    A row for every image, in their order: file, class, probability. An image that cannot be read has its row, too, with
    the reason.
    """

    ALIASES: ClassVar = {"batch_size_per_gpu": "batch_size"}

    model: Annotated[str, tyro.conf.Positional]
    """Run folder or checkpoint of finetune, published:NAME, or another program's file with a classifier."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Image files, folders, archives or patterns, in this order; or one table that names images."""
    data: ImageSource = ImageSource()
    predictions: Predictions = Predictions()
    weights: Weights = Weights()
    backbone: Network = Network()
    machine: InferenceMachine = InferenceMachine()

    def __post_init__(self):
        self.data.check(self.images)
        _ = self.predictions.file_format  # an ending that says nothing is said at once
