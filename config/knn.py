"""Every number of the k-NN probe, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .parts import BackboneFlags, DataFlags, MachineFlags, require, require_counts


@dataclass(frozen=True)
class Recipe(MachineFlags, DataFlags, BackboneFlags):
    """The k-NN probe: how well the nearest training images tell the class of a test image, by frozen features."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Checkpoint files or run folders; a folder stands for its kept checkpoints, oldest first, and the newest."""

    # The networks.
    checkpoint_key: Literal["teacher", "student"] = "teacher"
    """Which network of a stage-one checkpoint."""
    random_weights: bool = False
    """Also probe random weights of the same architecture, as the baseline; without checkpoints only these."""
    seed: int | None = None
    """Seed of the random weights (None: the checkpoint's, so they are what its run began with; else 0)."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""

    image_size: int | None = None
    """Side in pixels to which images are brought (None: the checkpoint's, else 32)."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: the checkpoint's, else twice the image size, which a
    finetuned one does not need)."""
    max_train_images: int | None = None
    """Use at most this many training images, spread evenly over the set."""

    # The probe.
    nb_knn: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours k."""
    temperature: float = 0.07
    """Neighbours vote with weight exp(similarity / temperature)."""
    backend: Literal["auto", "faiss", "torch"] = "auto"
    """Nearest-neighbour search; all are exact."""
    save_features: str | None = None
    """A .safetensors or .pt file for the features and labels of both splits, of the last network if several."""

    # The machine.
    batch_size: int = 256
    """Images per forward pass and process."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""

    def __post_init__(self):
        require(len(self.nb_knn) > 0, "nb_knn", "", "needs at least one number")
        require(min(self.nb_knn) >= 1, "nb_knn", min(self.nb_knn), "must be at least 1")
        self.check_backbone()
        self.check_data()
        require_counts(self, "batch_size max_train_images")
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "must not be negative")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")
        require(
            self.save_features is None or self.save_features.endswith((".safetensors", ".pt")),
            "save_features", self.save_features, "must end in .safetensors or .pt",
        )  # fmt: skip
        if not (self.checkpoints or self.random_weights):
            raise ValueError(
                "nothing to probe: give checkpoint files or run folders (say runs/ssl), or --random_weights"
            )
