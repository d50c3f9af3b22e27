"""Every number of stage two, with its unit and default. Names and defaults are those of the published command line.

Where the published command line and the published behaviour disagree, the behaviour's value is the default and the flag
does what it says: --ls, --aa, --cm and --mu turn things on (they are on), --smoothing is used.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..augment.erasing import Erasing
from .augmentation import TrainTransform
from .mixing import Mixing

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
COUNTS = ("epochs", "ra", "batch_size", "accumulate", "save_steps", "log_freq", "eval_freq")
SIZES = ("image_size", "patch_size", "embed_dim", "num_layers", "num_heads", "source_size", "workers")


@dataclass(frozen=True)
class Recipe:
    """Stage two: a classifier, from a pretrained backbone or from scratch."""

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
    """vit, swin, cait, or timm:<name> for any timm model (None: the checkpoint's, else vit)."""
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

    # The augmentation.
    flip: float | None = None
    """Probability of a horizontal flip (None: 0.5, on SVHN's digits 0; as published: 0.5 everywhere)."""
    padding: int = 4
    """Pixels of black border before the random crop to the original size."""
    aa: bool = True
    """AutoAugment."""
    aa_policy: Literal["auto", "cifar10", "svhn", "imagenet"] = "auto"
    """Its policy; auto: the data set's own, imagenet for Tiny-ImageNet and CINIC-10, else cifar10."""
    re: float = 0.25
    """Probability of random erasing."""
    re_sh: float = 0.4
    """Largest share of the image's area that is erased."""
    re_r1: float = 0.3
    """Least aspect ratio of the erased box; its inverse is the greatest."""
    re_fill: Literal["mean", "published"] = "mean"
    """The erased box is of the mean colour; published: of the mean's value after normalisation."""
    cm: bool = True
    """CutMix."""
    beta: float = 1.0
    """Its shares are Beta(beta, beta) distributed."""
    mu: bool = True
    """MixUp."""
    alpha: float = 1.0
    """Its shares are Beta(alpha, alpha) distributed."""
    mix_prob: float = 0.5
    """Probability that a batch is mixed, by CutMix or MixUp with equal chances."""

    # The objective and the optimisation (AdamW).
    objective: str = "cross_entropy"
    """A file of supervised/objectives."""
    ls: bool = True
    """Label smoothing."""
    smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    epochs: int = 100
    """Epochs, of --ra passes over the training images each."""
    ra: int = 3
    """Passes over the training images per epoch, each with its own order and augmentation."""
    batch_size: int = 256
    """Images per optimizer step, of all ranks and accumulation steps together."""
    accumulate: int = 1
    """Parts into which a rank cuts its share of a batch, to save memory."""
    lr: float = 1e-3
    """Peak learning rate; not scaled by the batch."""
    min_lr: float = 1e-6
    """Learning rate at the start and at the end."""
    warmup: int = 10
    """Epochs of linear learning-rate warm-up."""
    weight_decay: float = 0.05
    """Weight decay of every parameter."""
    seed: int = 0
    """Weights, order, augmentation and validation split are functions of it."""

    # The data. None: what the pretrained weights were made with.
    dataset: str | None = None
    """shapes (embedded), CIFAR10, CIFAR100, SVHN, CINIC10, Tiny-ImageNet or image_folder (None: else shapes)."""
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
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("seed", "warmup", "padding", "lr", "min_lr", "weight_decay"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("alpha", "beta", "vit_mlp_ratio"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "must be positive")
        for name in ("re", "mix_prob", "flip", "smoothing"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, name, value, "must be within 0 and 1")
        for name in ("val_fraction", "sd", "drop_rate"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, value, "must be at least 0 and below 1")
        _require(Erasing.min_area <= self.re_sh <= 1, "re_sh", self.re_sh, f"must be within {Erasing.min_area} and 1")
        _require(0 < self.re_r1 <= 1, "re_r1", self.re_r1, "must be above 0 and at most 1")

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

    def share(self, world: int) -> int:
        """Images of a batch per rank and part. ValueError where they do not come out even."""
        if self.batch_size % (world * self.accumulate):
            raise ValueError(
                f"--batch_size {self.batch_size} is not divisible by {world} ranks x {self.accumulate} parts"
            )
        share = self.batch_size // (world * self.accumulate)
        if share % 2 and share < self.batch_size and self.mix_prob and (self.cm or self.mu):
            raise ValueError(
                f"--batch_size {self.batch_size} over {world} ranks x {self.accumulate} parts is {share} images each, "
                "an odd number, and mixing takes them by pairs: change one of these, or --mix_prob 0"
            )
        return share

    def augmentation(self, entry: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> TrainTransform:
        """The transform of training images for an entry of datasets/."""
        erase = Erasing(self.re, self.re_sh, self.re_r1) if self.re else None
        fill = mean if self.re_fill == "published" else 0.0
        options = {"flip": self.flips(entry), "padding": self.padding, "policy": self.policy(entry)}
        return TrainTransform(size, mean, std, erase=erase, fill=fill, **options)

    def policy(self, entry: str) -> str | None:
        """The AutoAugment policy for an entry of datasets/; None where it is off."""
        own = {"svhn": "svhn", "tiny_imagenet": "imagenet", "cinic10": "imagenet"}.get(entry, "cifar10")
        return (own if self.aa_policy == "auto" else self.aa_policy) if self.aa else None

    def flips(self, entry: str) -> float:
        """The probability of a flip for an entry of datasets/: mirrored digits are no digits."""
        return self.flip if self.flip is not None else 0.0 if entry == "svhn" else 0.5

    def mixing(self) -> Mixing:
        return Mixing(self.beta if self.cm else None, self.alpha if self.mu else None, self.mix_prob)

    def selects(self, epoch: int, ended: bool) -> bool:
        """Whether an epoch takes part in the selection of the best: every --eval_freq-th and the last of the recipe."""
        return ended and (epoch % self.eval_freq == 0 or epoch == self.epochs)

    def shortened(self) -> tuple["Recipe", list[str]]:
        """The recipe with a warm-up that fits the run, and a line about it if it did not."""
        if self.warmup < self.epochs:
            return self, []
        warmup = self.epochs // 10  # 10 of 100, the published share
        return replace(self, warmup=warmup), [
            f"--warmup {self.warmup} does not fit a run of {self.epochs} epochs: using {warmup}"
        ]


def _require(condition: bool, name: str, value, what: str) -> None:
    if not condition:
        raise ValueError(f"--{name} {value}: {what}")
