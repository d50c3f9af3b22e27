"""Every setting of stage one, with its unit and default. Names and defaults are those of the published command line."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from .backbone import NEW_OPTIONS, BackboneSettings
from .checks import (
    AT_LEAST_1,
    EVEN,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    check_bounds,
    check_values,
    require,
)
from .data import NEW_COLUMNS, PIXEL_FLAGS, DataSettings
from .flags import NOT_A_FLAG, Given
from .learning_rate import scaled_lr
from .machine import AutoSwitch, RunSettings
from .sizes import ImageSize

DROP_SHARE = Rule(lambda value: 0 <= value < 1, "must be within 0 and 1, and not 1")
LR_BATCH = 256  # the global batch that --lr is for
AREA = Rule(lambda value: 0 < value <= 1, "must be shares of the area, above 0")


@dataclass(frozen=True)
class Student(BackboneSettings):
    """The backbone. None: the architecture's own value."""

    arch: str = "vit"
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name>."""
    image_size: ImageSize = 32
    """Side of the global crops in pixels, or height and width; local crops have half of it."""
    drop_rate: float | None = None
    """Dropout probability (0)."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student's last block."""
    patch_drop_rate: float | None = None
    """Share of the patches of a global crop that the student of vit does not see (0)."""

    def __post_init__(self):
        super().__post_init__()
        check_values(self, EVEN, "image_size")
        check_values(self, DROP_SHARE, "drop_rate", "drop_path_rate", "patch_drop_rate")


@dataclass(frozen=True)
class Beginning:
    """Where training begins."""

    pretrained_weights: str | None = None
    """File or run folder whose backbone to begin from: all that finetune takes (None: random weights)."""
    checkpoint_key: str = "teacher"
    """Which network of a stage-one file: teacher or student."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""
    extend_epochs: int | None = None
    """Go on for so many epochs with the settings and the whole state of the stage-one run --pretrained_weights, in a
    new --output_dir: a warm restart at half of its peak learning rate."""
    resume_changed_data: bool = False
    """Resume a run whose images changed: order and schedules begin again, its files so far stay in a sub-folder. Of
    streamed images with the names and sizes of before contents are taken as they are, and the run simply goes on."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "extend_epochs")


@dataclass(frozen=True)
class PretrainData(DataSettings):
    """The images."""

    dataset: str = "shapes"
    """Name of a data set, see above; shapes is embedded, images needs no labels; multicrop check PATH says which."""
    datapath: str = "./data"
    """Folder of the data set."""
    source_size: int | None = None
    """Side in pixels at which image files are stored, the shorter one where --image_size is height and width (None:
    twice image_size, or their own if smaller)."""


COMPARING = ("koleo_weight", "contrast_weight")
"""What compares the images of a part of the batch beside the objective, so that their number counts."""


@dataclass(frozen=True)
class Method:
    """The head, the teacher and the objective."""

    objective: str = "dino"
    """A file of ssl/objectives: dino, or without a teacher sigreg, or simclr with --local_crops_number 0."""
    out_dim: int = 1024
    """Prototypes K (simclr, sigreg: width of the projections)."""
    mlp_head_in: int | None = None
    """Width of the head's input. It comes from the backbone; published commands state it, and it is checked."""
    head_hidden_dim: int = 512
    """Hidden width of the head (DINO on ImageNet: 2048)."""
    head_bottleneck_dim: int = 256
    """Width just before the prototypes."""
    use_bn_in_head: bool = False
    """Batch norm in the head."""
    norm_last_layer: bool = True
    """Prototypes of length 1; false lets their lengths be learned."""
    centering: Literal["centre", "sinkhorn"] = "centre"
    """How dino keeps its targets from collapsing: a running centre, as published, or Sinkhorn-Knopp, as SwAV."""
    student_temp: float = 0.1
    """Temperature of the student's softmax (simclr: of its similarities)."""
    warmup_teacher_temp: float = 0.04
    """Teacher temperature in the first epoch."""
    teacher_temp: float = 0.07
    """Teacher temperature after its warm-up."""
    warmup_teacher_temp_epochs: int = 10
    """Epochs of that warm-up."""
    sigreg_share: float = 0.05
    """What the distribution of the projections counts in the loss of sigreg; the views' agreement counts the rest."""
    koleo_weight: float = 0.0
    """What KoLeo counts beside the objective: it spreads the features of each batch's global crops (DINOv2: 0.1)."""
    contrast_weight: float = 0.0
    """What a contrast of the batch's images counts beside the objective: each global crop is to find the other one of
    its image among those of its part of the batch, by the head's outputs (0: none)."""
    label_weight: float = 0.0
    """What a cross-entropy with the labels counts beside the objective, by a linear classifier on the features of the
    global crops: joint training, which needs labels (0: none are used)."""
    center_momentum: float = 0.9
    """How slowly the centre follows the teacher's mean logits."""
    momentum_teacher: float = 0.996
    """EMA momentum of the teacher at the start; a cosine takes it to 1."""
    teacher_drop_path: bool = False
    """Stochastic depth in the teacher too, as Gani et al. published it; false as in DINO."""
    freeze_last_layer: int = 1
    """Epochs in which the prototypes stay as they are."""

    def __post_init__(self):
        widths = ("out_dim", "mlp_head_in", "head_hidden_dim", "head_bottleneck_dim")
        check_values(self, AT_LEAST_1, *widths)
        check_values(self, NOT_NEGATIVE, "warmup_teacher_temp_epochs", "freeze_last_layer")
        check_values(self, NOT_NEGATIVE, *COMPARING, "label_weight")
        check_values(self, POSITIVE, "teacher_temp", "warmup_teacher_temp", "student_temp")
        check_values(self, SHARE, "center_momentum", "momentum_teacher", "sigreg_share")


@dataclass(frozen=True)
class CropSettings:
    """The crops."""

    global_crops_scale: tuple[float, float] = (0.5, 1.0)
    """Area of a global crop as a share of the image."""
    local_crops_scale: tuple[float, float] = (0.2, 0.4)
    """Area of a local crop as a share of the image."""
    crop_flip: float = 0.5
    """Probability of a horizontal flip of a crop."""
    local_crops_number: int = 8
    """Local crops per image; 0 turns multi-crop off."""
    jitter: float = 0.8
    """Probability of colour jitter in a crop."""
    grayscale: float = 0.2
    """Probability of grayscale in a crop."""
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Probability of blur in the first global crop, in the second, in a local one."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the crop; published for 224 px, strong on small crops."""
    solarise: float = 0.2
    """Probability of solarisation in the second global crop."""

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "local_crops_number")
        check_values(self, FINITE, "blur_sigma")
        check_values(self, SHARE, "jitter", "grayscale", "blur", "solarise", "crop_flip")
        check_values(self, AREA, "global_crops_scale", "local_crops_scale")
        check_bounds(self, "global_crops_scale", "local_crops_scale", "blur_sigma")


@dataclass(frozen=True)
class PretrainOptimisation:
    """The optimisation."""

    optimizer: Literal["adamw", "sgd", "lars", "muon"] = "adamw"
    """Optimizer; muon orthogonalises the steps of matrices and takes AdamW for the rest."""
    epochs: int = 200
    """Passes over the images."""
    batch_size_per_gpu: int = 64
    """Images per process and accumulation step."""
    accumulate: int = 1
    """Batches summed into one optimizer step."""
    lr: float = 1e-4
    """Peak learning rate per 256 images of the global batch."""
    min_lr: float = 1e-6
    """Learning rate at the end."""
    minutes: float | None = None
    """With --recipe auto: so many epochs that the run takes about so many minutes here (None: by its steps)."""
    warmup_epochs: float = 30
    """Epochs of linear learning-rate warm-up, or a part of one."""
    weight_decay: float = 0.04
    """Weight decay at the start."""
    weight_decay_end: float = 0.4
    """Weight decay at the end (cosine)."""
    clip_grad: float = 3.0
    """Largest norm of one parameter's gradient; 0 for none."""
    seed: int = 0
    """Weights, order and crops are functions of it."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "epochs", "batch_size_per_gpu", "accumulate")
        check_values(self, NOT_NEGATIVE, "seed")
        check_values(self, POSITIVE, "minutes")
        rates = ("lr", "min_lr", "weight_decay", "weight_decay_end", "clip_grad", "warmup_epochs")
        check_values(self, FINITE, *rates)

    def peak_lr(self, global_batch: int) -> float:
        """The learning rate after the warm-up, for a global batch of so many images."""
        return scaled_lr(self.lr, global_batch, LR_BATCH)


@dataclass(frozen=True)
class PretrainRun(RunSettings):
    """The run and the machine."""

    shard: bool = False
    """Where the networks are too large for one GPU: share weights, gradients and the optimizer's state out over the
    processes of torchrun (FSDP2) in place of a copy in each; stage one only."""
    output_dir: str = "runs/ssl"
    """Run folder; a run that is there is resumed."""
    saveckp_freq: int = 10
    """Epochs between checkpoints that are kept; 0 keeps none."""
    knn_freq: int = 5
    """Epochs between online k-NN probes of the teacher; 0 for none."""
    knn_images: int = 10000
    """Most training images that the online k-NN uses."""
    knn_dataset: str | None = None
    """Data set with labels for the online k-NN (None: --dataset, if that has labels)."""
    knn_datapath: str | None = None
    """Folder of --knn_dataset (None: ./data)."""

    def __post_init__(self):
        super().__post_init__()
        check_values(self, NOT_NEGATIVE, "saveckp_freq", "knn_freq")
        check_values(self, AT_LEAST_1, "knn_images")
        alone = self.knn_datapath is not None and self.knn_dataset is None
        words = "needs --knn_dataset: multicrop check says which data set this path holds"
        require(not alone, "knn_datapath", self.knn_datapath, words)
        words = "not with --compile: shared-out networks run uncompiled"
        require(not (self.compile is True and self.shard), "shard", True, words)

    @property
    def compile_networks(self) -> AutoSwitch:
        """So do those that are shared out."""
        return False if self.shard else super().compile_networks


@dataclass(frozen=True)
class Recipe:
    """Stage one: self-supervised pretraining with multi-crop (DINO)."""

    begin: Beginning = Beginning()
    backbone: Student = Student()
    data: PretrainData = PretrainData()
    method: Method = Method()
    crops: CropSettings = CropSettings()
    optimisation: PretrainOptimisation = PretrainOptimisation()
    run: PretrainRun = PretrainRun()
    given: Annotated[Given | None, tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default=None, metadata=NOT_A_FLAG
    )

    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "datapath", "download", "workers", "device", "compile", "graph", "attention", "checkpoint_activations",
        "shard", "deterministic", "output_dir", "max_steps", "saveckp_freq", "save_steps", "log_freq", "log", "report",
        "knn_freq", "knn_images", "knn_dataset", "knn_datapath", "mlp_head_in", "batch_size_per_gpu", "accumulate",
        "minutes", "trust_checkpoint", "resume_changed_data", *PIXEL_FLAGS,
    )  # fmt: skip
    """Flags that may change when a run is resumed (the global batch is compared as a whole)."""

    ADDED: ClassVar[dict[str, Any]] = NEW_OPTIONS | NEW_COLUMNS | PIXEL_FLAGS | {
        "crop_flip": 0.5, "sigreg_share": 0.05, "pretrained_weights": None, "checkpoint_key": "teacher",
        "extend_epochs": None, "patch_drop_rate": None, "knn_dataset": None, "knn_datapath": None,
        "koleo_weight": 0.0, "contrast_weight": 0.0, "label_weight": 0.0,
    }  # fmt: skip
    """Flags that runs of older versions did not have, and what they did."""

    def shortened(self) -> tuple["Recipe", list[str]]:
        """The recipe with warm-ups that fit the run, and a line about each that did not."""
        recipe, lines = self, []
        epochs = self.optimisation.epochs
        warmup = self.optimisation.warmup_epochs
        if warmup >= epochs:
            # 30 of 200 epochs, the published share
            fitting = max(1, epochs * 3 // 20) if epochs > 1 else 0
            optimisation = replace(self.optimisation, warmup_epochs=fitting)
            recipe = replace(recipe, optimisation=optimisation)
            lines.append(_too_long("warmup_epochs", warmup, epochs, fitting))
        warmup = self.method.warmup_teacher_temp_epochs
        if warmup > epochs:
            fitting = epochs // 2
            recipe = replace(
                recipe, method=replace(self.method, warmup_teacher_temp_epochs=fitting)
            )
            lines.append(_too_long("warmup_teacher_temp_epochs", warmup, epochs, fitting))
        return recipe, lines


def _too_long(name: str, value: float, epochs: int, used: int) -> str:
    return f"--{name} {value:g} is longer than the run of {epochs} epochs: using {used}"
