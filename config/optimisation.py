"""How stage two learns: objective, optimizer, schedule and averaged weights, a part of finetune.py."""

from dataclasses import dataclass, replace
from typing import Literal

from .checks import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    check_values,
    require,
)
from .learning_rate import scaled_lr

AMOUNTS = (
    "seed", "warmup", "lr", "min_lr", "weight_decay", "momentum", "clip_grad", "schedule_lag", "cooldown_epochs",
    "warmup_lr",
)  # fmt: skip
COUNTS = ("epochs", "ra", "batch_size", "accumulate", "repeats", "lr_batch")


@dataclass(frozen=True)
class FinetuneOptimisation:
    """How the classifier learns."""

    objective: str = "cross_entropy"
    """A file of supervised/objectives."""
    ls: bool = True
    """Label smoothing."""
    smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    epochs: int = 100
    """Epochs, of --ra passes over the training images each."""
    cooldown_epochs: int = 0
    """Epochs after these, at --min_lr."""
    ra: int = 3
    """Passes over the training images per epoch, each with its own order and augmentation."""
    repeats: int = 1
    """Repeated augmentation: an epoch holds a part of the images, this often each, in a row (published: 3). Needs
    --ra 1."""
    batch_size: int = 256
    """Images per optimizer step, of all ranks and accumulation steps together."""
    balanced_sampler: bool = False
    """Show every class equally often: an epoch is as long, with more passes over small classes than over large."""
    class_weights: Literal["none", "auto"] = "none"
    """auto: an image's loss counts by the inverse of how many training images its class has; the mean stays 1."""
    accumulate: int = 1
    """Parts into which a rank cuts its share of a batch, to save memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with --momentum."""
    momentum: float = 0.9
    """Of sgd."""
    nesterov: bool = True
    """Nesterov's form of it."""
    lr: float = 1e-3
    """Peak learning rate, not scaled by the batch unless --lr_batch is given."""
    lr_batch: int | None = None
    """The batch that --lr is for: the peak is lr x batch_size / lr_batch (DeiT, DHVT: 512)."""
    min_lr: float = 1e-6
    """Learning rate at the end, and at the start unless --warmup_lr is given."""
    warmup: int = 10
    """Epochs of linear learning-rate warm-up."""
    warmup_lr: float | None = None
    """Learning rate at the start (None: min_lr)."""
    schedule: Literal["step", "epoch"] = "step"
    """step: a cosine from the warm-up's end on, set in every step; epoch: from epoch 0 on, set once per epoch."""
    schedule_lag: int = 0
    """Epochs by which --schedule epoch comes late (as published for DHVT and LocalViT: 1)."""
    weight_decay: float = 0.05
    """Weight decay."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: all parameters, or matrices alone: no biases, norms or other vectors."""
    no_decay: tuple[str, ...] = ()
    """With --decay matrices: names that do not decay either; * stands for anything (cls_token, "*pos_embed*")."""
    drop_rate: float | None = None
    """Dropout probability (0)."""
    sd: float = 0.1
    """Stochastic depth of the last block."""
    layer_decay: float = 1.0
    """Each block learns at this share of the rate of the one after it."""
    clip_grad: float = 0.0
    """Largest norm of the gradient as a whole; 0: any."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights, which then are evaluated and selected; 0: no average."""
    ema_warmup: bool = False
    """Forget the initial weights soon: the average's decay grows up to --ema_decay."""
    freeze_backbone: bool = False
    """Linear probe: only the head learns."""
    head_init: Literal["normal", "zero", "linear"] | None = None
    """The head's initial weights: of spread 0.02, 0, or logistic regression on the features before training (None:
    linear for one's own images from pretrained weights, else normal)."""
    seed: int = 0
    """Weights, order, augmentation and validation split are functions of it."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, *COUNTS)
        check_values(self, NOT_NEGATIVE, *AMOUNTS)
        check_values(self, SHARE, "smoothing")
        check_values(self, SHARE_BELOW_1, "ema_decay", "sd", "drop_rate")
        check_values(self, SHARE_ABOVE_0, "layer_decay")
        once = self.repeats == 1 or self.ra == 1
        words = f"shows a part of the images in an epoch: give --ra 1, too (--ra is {self.ra}, 3 unless stated)"
        require(once, "repeats", self.repeats, words)
        repeats = self.balanced_sampler and self.repeats > 1
        require(not repeats, "balanced_sampler", "true", "goes with --repeats 1 only")
        twice = self.balanced_sampler and self.class_weights != "none"
        words = "the --balanced_sampler has balanced the classes already: take one of them"
        require(not twice, "class_weights", self.class_weights, words)
        needless = self.no_decay and self.decay == "all"
        require(not needless, "no_decay", self.no_decay, "needs --decay matrices")
        frozen = self.freeze_backbone and self.layer_decay != 1
        require(not frozen, "layer_decay", self.layer_decay, "does nothing with --freeze_backbone")

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return scaled_lr(self.lr, self.batch_size, self.lr_batch)

    def learning_rate(self) -> dict:
        """The learning rate's course: arguments of engine/schedule.py's learning_rate."""
        return {
            "schedule": self.schedule,
            "epochs": self.epochs,
            "lag": self.schedule_lag,
            "peak": self.peak_lr,
            "end": self.min_lr,
            "warmup": self.warmup,
            "floor": self.min_lr if self.warmup_lr is None else self.warmup_lr,
        }

    @property
    def all_epochs(self) -> int:
        """Epochs with the cool-down."""
        return self.epochs + self.cooldown_epochs

    def shortened(self) -> tuple["FinetuneOptimisation", list[str]]:
        """The settings with a warm-up that fits the run, and a line about it if it did not."""
        if self.warmup < self.epochs:
            return self, []
        warmup = self.epochs // 10  # 10 of 100, the published share
        line = f"--warmup {self.warmup} does not fit a run of {self.epochs} epochs: using {warmup}"
        return replace(self, warmup=warmup), [line]
