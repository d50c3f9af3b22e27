"""Flags that several scripts have, and the check that they share. A recipe overrides a field for another default."""

from dataclasses import dataclass
from typing import Literal


def require(condition: bool, name: str, value, what: str) -> None:
    """ValueError about a flag unless the condition holds."""
    if not condition:
        raise ValueError(f"--{name} {value}: {what}")


def require_counts(recipe, names: str) -> None:
    """ValueError unless each of these fields is at least 1 or left open."""
    for name in names.split():
        value = getattr(recipe, name)
        require(value is None or value >= 1, name, value, "must be at least 1")


@dataclass(frozen=True)
class BackboneFlags:
    """The network."""

    # The backbone. None: what the weights' file says, else the architecture's own value.
    arch: str | None = None
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name> (None: the checkpoint's, else vit)."""
    image_size: int | None = None
    """Side in pixels to which images are brought (None: the checkpoint's, else the images' own)."""
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

    def stated(self, *more: str) -> dict:
        """Arguments of find.backbone that flags state, these and `more`; not those left to others."""
        names = (
            "arch",
            "image_size",
            "patch_size",
            "embed_dim",
            "num_layers",
            "num_heads",
            "vit_mlp_ratio",
        )
        values = {name: getattr(self, name) for name in (*names, "qkv_bias", *more)}
        return {name: value for name, value in values.items() if value is not None}

    def check_backbone(self) -> None:
        require_counts(self, "image_size patch_size embed_dim num_layers num_heads")
        ratio = self.vit_mlp_ratio
        require(
            ratio is None or 0 < ratio < float("inf"), "vit_mlp_ratio", ratio, "must be positive"
        )


@dataclass(frozen=True)
class DataFlags:
    """The images."""

    # The data. None: what the weights were made with.
    dataset: str | None = None
    """shapes (embedded), CIFAR10, CIFAR100, SVHN, CINIC10, Tiny-ImageNet, Flowers102, Chaoyang, clipart (and the other
    domains), ImageNet, lmdb or image_folder (None: else shapes); multicrop check PATH says which."""
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

    def check_data(self) -> None:
        require_counts(self, "source_size workers")


@dataclass(frozen=True)
class MachineFlags:
    """Where the arithmetic happens."""

    # The machine.
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks; auto: bf16 on CUDA, else fp32."""


@dataclass(frozen=True)
class RunFlags(MachineFlags):
    """A training run."""

    compile: bool = False
    """torch.compile the networks."""
    deterministic: bool = False
    """The same numbers on every run on CUDA, too, so that a resumed run is bit-equal there; slower."""

    # The run.
    output_dir: str = "runs"
    """Run folder; a run that is there is resumed."""
    max_steps: int | None = None
    """Stop after this global step, save, and leave every schedule as it is."""
    save_steps: int = 1000
    """Most optimizer steps between saves of the newest checkpoint (it is saved every epoch too)."""
    log_freq: int = 10
    """Steps between rows of metrics.jsonl."""

    def check_run(self) -> None:
        require_counts(self, "max_steps save_steps log_freq")
