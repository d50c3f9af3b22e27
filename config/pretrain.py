"""Every number of stage one, with its unit and default. Names and defaults are those of the published command line."""

from dataclasses import dataclass, fields, replace
from math import inf
from typing import ClassVar, Literal

from .parts import BackboneFlags, DataFlags, RunFlags

CHECKS = (
    (
        "out_dim mlp_head_in head_hidden_dim head_bottleneck_dim epochs batch_size_per_gpu accumulate knn_images",
        lambda value: value >= 1,
        "must be at least 1",
    ),
    ("image_size", lambda value: value % 2 == 0, "must be even: local crops have half of it"),
    (
        "seed local_crops_number warmup_epochs warmup_teacher_temp_epochs freeze_last_layer saveckp_freq knn_freq",
        lambda value: value >= 0,
        "must not be negative",
    ),
    (
        "lr min_lr weight_decay weight_decay_end clip_grad blur_sigma",
        lambda value: 0 <= value < inf,
        "must be finite and not negative",
    ),
    (
        "teacher_temp warmup_teacher_temp student_temp",
        lambda value: 0 < value < inf,
        "must be positive",
    ),
    ("drop_rate drop_path_rate", lambda value: 0 <= value < 1, "must be within 0 and 1, and not 1"),
    (
        "center_momentum momentum_teacher jitter grayscale blur solarise",
        lambda value: 0 <= value <= 1,
        "must be within 0 and 1",
    ),
    (
        "global_crops_scale local_crops_scale",
        lambda value: 0 < value <= 1,
        "must be shares of the area, above 0",
    ),
)


@dataclass(frozen=True)
class Recipe(RunFlags, DataFlags, BackboneFlags):  # --help shows the last one's flags first
    """Stage one: self-supervised pretraining with multi-crop (DINO)."""

    # The backbone. None: the architecture's own value.
    arch: str = "vit"
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name>."""
    image_size: int = 32
    """Side of the global crops in pixels; local crops have half of it."""
    drop_rate: float | None = None
    """Dropout probability (0)."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student's last block."""
    teacher_drop_path: bool = False
    """Stochastic depth in the teacher too, as Gani et al. published it; false as in DINO."""

    dataset: str = "shapes"
    """shapes (embedded), CIFAR10, CIFAR100, SVHN, CINIC10, Tiny-ImageNet, Flowers102, Chaoyang, clipart (and the other
    domains), ImageNet, lmdb, image_folder, or images (no labels); multicrop check PATH says which."""
    datapath: str = "./data"
    """Folder of the data set."""
    source_size: int | None = None
    """Side in pixels at which image files are stored (None: twice image_size, or their own if smaller)."""

    # The head and the objective.
    objective: str = "dino"
    """A file of ssl/objectives."""
    out_dim: int = 1024
    """Prototypes K."""
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
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    warmup_teacher_temp: float = 0.04
    """Teacher temperature in the first epoch."""
    teacher_temp: float = 0.07
    """Teacher temperature after its warm-up."""
    warmup_teacher_temp_epochs: int = 10
    """Epochs of that warm-up."""
    center_momentum: float = 0.9
    """How slowly the centre follows the teacher's mean logits."""
    momentum_teacher: float = 0.996
    """EMA momentum of the teacher at the start; a cosine takes it to 1."""

    # The crops.
    global_crops_scale: tuple[float, float] = (0.5, 1.0)
    """Area of a global crop as a share of the image."""
    local_crops_scale: tuple[float, float] = (0.2, 0.4)
    """Area of a local crop as a share of the image."""
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

    # The optimisation.
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """Optimizer."""
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
    warmup_epochs: int = 30
    """Epochs of linear learning-rate warm-up."""
    weight_decay: float = 0.04
    """Weight decay at the start."""
    weight_decay_end: float = 0.4
    """Weight decay at the end (cosine)."""
    clip_grad: float = 3.0
    """Largest norm of one parameter's gradient; 0 for none."""
    freeze_last_layer: int = 1
    """Epochs in which the prototypes stay as they are."""
    seed: int = 0
    """Weights, order and crops are functions of it."""

    output_dir: str = "runs/ssl"
    """Run folder; a run that is there is resumed."""
    saveckp_freq: int = 10
    """Epochs between checkpoints that are kept; 0 keeps none."""
    knn_freq: int = 5
    """Epochs between online k-NN probes of the teacher; 0 for none."""
    knn_images: int = 10000
    """Most training images that the online k-NN uses."""

    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "datapath", "download", "workers", "device", "compile", "deterministic", "output_dir", "max_steps",
        "saveckp_freq", "save_steps", "log_freq", "knn_freq", "knn_images", "mlp_head_in", "batch_size_per_gpu",
        "accumulate",
    )  # fmt: skip
    """Fields that may change when a run is resumed (the global batch is compared as a whole)."""

    def __post_init__(self):
        self.check_backbone()
        self.check_data()
        self.check_run()
        for names, holds, what in CHECKS:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not all(
                    map(holds, value if isinstance(value, tuple) else (value,))
                ):
                    _refuse(name, value, what)
        for name in ("global_crops_scale", "local_crops_scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                _refuse(name, (low, high), "must be a lower and an upper bound")

    def backbone(self) -> dict:
        """What rebuilds the backbone: arguments of find.backbone, without those left to the architecture."""
        return self.stated("drop_rate", "drop_path_rate")

    def crop_options(self) -> dict:
        """Arguments of MultiCrop, but for the mean and the deviation of the images."""
        return {
            "image_size": self.image_size,
            "local_size": self.image_size // 2,
            "local_crops": self.local_crops_number,
            "global_scale": tuple(self.global_crops_scale),
            "local_scale": tuple(self.local_crops_scale),
            "blur": tuple(self.blur),
            "sigma": tuple(self.blur_sigma),
            **{name: getattr(self, name) for name in ("jitter", "grayscale", "solarise")},
        }

    @classmethod
    def stored(cls, values: dict) -> "Recipe":
        """The recipe that a checkpoint holds; what it does not say has its default."""
        known = {field.name for field in fields(cls)} & set(values)
        return cls(
            **{k: tuple(values[k]) if isinstance(values[k], list) else values[k] for k in known}
        )

    def shortened(self) -> tuple["Recipe", list[str]]:
        """The recipe with warm-ups that fit the run, and a line about each that did not."""
        changes, lines = {}, []
        if self.warmup_epochs >= self.epochs:
            changes["warmup_epochs"] = (
                max(1, self.epochs * 3 // 20) if self.epochs > 1 else 0
            )  # 30 of 200, the published share
        if self.warmup_teacher_temp_epochs > self.epochs:
            changes["warmup_teacher_temp_epochs"] = self.epochs // 2
        for name, value in changes.items():
            lines.append(
                f"--{name} {getattr(self, name)} is longer than the run of {self.epochs} epochs: using {value}"
            )
        return replace(self, **changes), lines


def _refuse(name: str, value, what: str) -> None:
    raise ValueError(
        f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}: {what}"
    )
