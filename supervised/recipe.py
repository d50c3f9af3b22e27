"""Every number of stage two, with its unit and default. Names and defaults are those of the published command line.

Where the published command line and the published behaviour disagree, the behaviour's value is the default and the flag
does what it says: --ls, --aa, --cm and --mu turn things on (they are on), --smoothing is used.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .augmentation_flags import Augmentation
from .flags import require
from .optimisation_flags import Optimisation
from .teacher_flags import TeacherFlags

BACKBONE = (
    "arch",
    "image_size",
    "patch_size",
    "embed_dim",
    "num_layers",
    "num_heads",
    "vit_mlp_ratio",
    "qkv_bias",
    "drop_rate",
)
COUNTS = ("save_steps", "log_freq", "eval_freq")
SIZES = ("image_size", "patch_size", "embed_dim", "num_layers", "num_heads", "source_size", "workers")


@dataclass(frozen=True)
class Start:
    """What is trained: the flags of the weights and of the backbone."""

    # The start: one of --pretrained_weights, --scratch and --eval.
    pretrained_weights: str | None = None
    """File or run folder to start from: of stage one or two, of the published code, of timm, or any state dict."""
    checkpoint_key: str = "teacher"
    """Which network of a stage-one file: teacher or student."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""
    scratch: bool = False
    """Start from random weights."""
    eval: bool = False
    """Only measure the test accuracy of a classifier: that of --pretrained_weights, or the newest in --output_dir."""

    # The backbone. None: what the pretrained weights say, else the architecture's own value.
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
    drop_rate: float | None = None
    """Dropout probability (0)."""
    sd: float = 0.1
    """Stochastic depth of the last block."""


@dataclass(frozen=True)
class Recipe(TeacherFlags, Optimisation, Augmentation, Start):  # --help shows the last one's flags first
    """Stage two: a classifier, from a pretrained backbone or from scratch."""

    # The data. None: what the pretrained weights were made with.
    dataset: str | None = None
    """shapes (embedded), CIFAR10, CIFAR100, SVHN, CINIC10, Tiny-ImageNet, Flowers102, Chaoyang, clipart (and the other
    domains), ImageNet, lmdb or image_folder (None: else shapes); python -m multicrop.data check PATH says which."""
    datapath: str | None = None
    """Folder of the data set (None: the weights' own if they have the same data set, else ./data)."""
    download: bool = False
    """Fetch the data set where torchvision can."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: what the weights' run was given, else image_size)."""
    stream: bool | None = None
    """Decode image files anew in every epoch, in worker processes, instead of storing them (None: what would take more
    than half of this machine's memory)."""
    workers: int | None = None
    """Processes per rank that decode streamed images (None: one per processor)."""
    val_fraction: float = 0.1
    """Share of each class's training images held out to select the best epoch; 0 (as published): none, no selection."""

    # The machine.
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""
    compile: bool = False
    """torch.compile the network."""
    deterministic: bool = False
    """Make CUDA give the same numbers in every run, at some cost in speed; a CPU does so anyway."""

    # The run.
    output_dir: str = "runs/finetune"
    """Run folder; a run that is there is resumed."""
    max_steps: int | None = None
    """Stop after this global step, save, and leave every schedule as it is."""
    save_steps: int = 1000
    """Most optimizer steps between saves of the newest checkpoint (it is saved every epoch too)."""
    log_freq: int = 10
    """Steps between rows of metrics.jsonl."""
    eval_freq: int = 1
    """Epochs between accuracies on the validation images (without them: on the test images, to look at only)."""

    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "trust_checkpoint", "eval", "datapath", "download", "workers", "device", "compile", "deterministic",
        "output_dir", "max_steps", "save_steps", "log_freq", "accumulate", "batch_size",
    )  # fmt: skip
    """Fields that may change when a run is resumed (the global batch is compared as a whole)."""

    def __post_init__(self):
        for name in (*COUNTS, *(name for name in (*SIZES, "max_steps") if getattr(self, name) is not None)):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        value = self.vit_mlp_ratio
        require(value is None or value > 0, "vit_mlp_ratio", value, "must be positive")
        for name in ("val_fraction", "sd", "drop_rate"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, value, "must be at least 0 and below 1")
        self.check_augmentation()
        self.check_optimisation()
        self.check_teacher()

    def check_start(self) -> None:
        """ValueError unless there is one start. A recipe file alone need not have it: the command line may."""
        if self.scratch and (self.eval or self.pretrained_weights):
            other = "--eval" if self.eval else "--pretrained_weights"
            raise ValueError(f"--scratch starts from random weights: leave it or {other} out")
        if not (self.scratch or self.eval or self.pretrained_weights):
            raise ValueError(
                "no weights to start from: give --pretrained_weights FILE (of stage one, say runs/ssl), "
                "--scratch for random ones, or --eval to evaluate a finetuned checkpoint"
            )

    def backbone(self, described: dict, side: int | None, channels: int) -> dict:
        """Arguments of find.backbone: flags first, then what the weights' file says, then `side` for the image size."""
        given = {name: getattr(self, name) for name in BACKBONE if getattr(self, name) is not None}
        if self.arch not in (None, described.get("arch")):
            described = {name: described[name] for name in ("image_size",) if name in described}
        known = {"arch": "vit", "image_size": side, **described, **given}
        return {**known, "drop_path_rate": self.sd, "in_channels": channels}

    def stored_side(self, described: dict) -> int:
        """Side in pixels at which image files are stored."""
        return self.source_size or self.image_size or described.get("image_size") or 64

    def selects(self, epoch: int, ended: bool) -> bool:
        """Whether an epoch takes part in the selection of the best: every --eval_freq-th and the last of the recipe."""
        return ended and (epoch % self.eval_freq == 0 or epoch == self.all_epochs)
