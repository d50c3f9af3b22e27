"""Every number of the k-NN probe, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

BACKBONE = ("arch", "image_size", "patch_size", "embed_dim", "num_layers", "num_heads", "vit_mlp_ratio", "qkv_bias")

SIZES = (
    "batch_size", "max_train_images", "image_size", "patch_size", "embed_dim", "num_layers", "num_heads", "source_size",
    "workers",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
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

    # The backbone, where no checkpoint of ours describes it. None: the architecture's own value.
    arch: str | None = None
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name> (None: vit)."""
    image_size: int | None = None
    """Side in pixels to which images are brought (None: 32)."""
    patch_size: int | None = None
    """Side of a patch in pixels (vit: image_size / 8)."""
    embed_dim: int | None = None
    """Width (vit: 192)."""
    num_layers: int | None = None
    """Blocks (vit: 9)."""
    num_heads: int | None = None
    """Attention heads (vit: 12)."""
    vit_mlp_ratio: float | None = None
    """Hidden width of the MLPs in multiples of the width (vit, swin, cait: 2)."""
    qkv_bias: bool | None = None
    """Biases in the query, key and value layers (vit, swin, cait: true)."""

    # The data. None: what the checkpoint was trained on.
    dataset: str | None = None
    """shapes (embedded), CIFAR10, CIFAR100, SVHN, CINIC10, Tiny-ImageNet, Flowers102, Chaoyang, clipart (and the other
    domains), ImageNet, lmdb or image_folder; python -m multicrop.data check PATH says which."""
    datapath: str | None = None
    """Folder of the data set."""
    download: bool = False
    """Fetch the data set where torchvision can."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: the checkpoint's, else twice the image size)."""
    stream: bool | None = None
    """Decode image files anew in every epoch, in worker processes, instead of storing them (None: what would take more
    than half of this machine's memory)."""
    workers: int | None = None
    """Processes per rank that decode streamed images (None: one per processor)."""
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
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""

    def __post_init__(self):
        _require(len(self.nb_knn) > 0, "nb_knn", "", "needs at least one number")
        _require(min(self.nb_knn) >= 1, "nb_knn", min(self.nb_knn), "must be at least 1")
        for name in SIZES:
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "must be at least 1")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "must not be negative")
        for name in ("temperature", "vit_mlp_ratio"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "must be positive")
        _require(
            self.save_features is None or self.save_features.endswith((".safetensors", ".pt")),
            "save_features", self.save_features, "must end in .safetensors or .pt",
        )  # fmt: skip
        if not (self.checkpoints or self.random_weights):
            raise ValueError(
                "nothing to probe: give checkpoint files or run folders (say runs/ssl), or --random_weights"
            )

    def backbone(self) -> dict:
        """Arguments of find.backbone that flags state."""
        return {name: getattr(self, name) for name in BACKBONE if getattr(self, name) is not None}


def _require(condition: bool, name: str, value, what: str) -> None:
    if not condition:
        raise ValueError(f"--{name} {value}: {what}")
