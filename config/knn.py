"""Every setting of the k-NN probe, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from .backbone import BackboneSettings
from .checks import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_values, require
from .data import DataSettings
from .machine import Machine, Precision
from .sizes import ImageSize


@dataclass(frozen=True)
class Network(BackboneSettings):
    """The networks."""

    image_size: ImageSize | None = None
    """Side in pixels to which images are brought, or height and width (None: the checkpoint's, else 32)."""


@dataclass(frozen=True)
class ProbeData(DataSettings):
    """The images. What is None follows from what the weights were made with."""

    source_size: int | None = None
    """Side in pixels at which image files are stored (None: the checkpoint's, else twice the image size, which a
    finetuned one does not need)."""
    max_train_images: int | None = None
    """Use at most this many training images, spread evenly over the set."""

    def __post_init__(self):
        super().__post_init__()
        check_values(self, AT_LEAST_1, "max_train_images")


@dataclass(frozen=True)
class Weights:
    """Which weights are probed."""

    checkpoint_key: str = "teacher"
    """Which network of a file that holds several: teacher or student of stage one, average of stage two, or the name
    of any part of another program's file."""
    random_weights: bool = True
    """Before each new architecture probe its random weights, as a baseline; without checkpoints, those of --arch."""
    seed: int | None = None
    """Seed of the random weights (None: the checkpoint's, so they are what its run began with; else 0)."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "seed")


@dataclass(frozen=True)
class Probe:
    """The probe."""

    nb_knn: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours k."""
    temperature: float = 0.07
    """Neighbours vote with weight exp(similarity / temperature)."""
    backend: Literal["auto", "faiss", "torch"] = "auto"
    """Nearest-neighbour search; all are exact."""
    raw_pixels: bool = True
    """First probe the images' own pixels, as a baseline: at most 32 px a side, 12 KiB an image in memory."""
    linear: bool = False
    """Also fit a linear classifier (logistic regression) on the features."""
    linear_c: float = 1.0
    """Inverse strength of its L2 penalty: a larger one fits the training images closer."""
    save_features: str | None = None
    """A .safetensors or .pt file for the features and labels of both splits, of the last network if several."""

    def __post_init__(self):
        require(len(self.nb_knn) > 0, "nb_knn", "", "needs at least one number")
        require(min(self.nb_knn) >= 1, "nb_knn", min(self.nb_knn), "must be at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")
        check_values(self, POSITIVE, "linear_c")
        file = self.save_features
        words = "must end in .safetensors or .pt"
        require(
            file is None or file.endswith((".safetensors", ".pt")), "save_features", file, words
        )


@dataclass(frozen=True)
class ProbeMachine(Machine):
    """The machine."""

    batch_size: int = 256
    """Images per forward pass and process."""
    precision: Precision = "fp32"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "batch_size")


@dataclass(frozen=True)
class Recipe:
    """The k-NN probe: how well the nearest training images tell the class of a test image, by frozen features."""

    ALIASES: ClassVar = {"batch_size_per_gpu": "batch_size"}

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Checkpoint files, run folders or published:NAME; a folder stands for its kept checkpoints, oldest first, and the
    newest."""
    weights: Weights = Weights()
    backbone: Network = Network()
    data: ProbeData = ProbeData()
    probe: Probe = Probe()
    machine: ProbeMachine = ProbeMachine()

    def __post_init__(self):
        if not (self.checkpoints or (self.weights.random_weights and self.backbone.arch)):
            raise ValueError(
                "nothing to probe: give checkpoint files or run folders (say runs/ssl), or --arch for random weights"
            )
