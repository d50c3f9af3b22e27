"""How stage two learns: the flags of objective, optimizer, schedule and averaged weights, a part of recipe.py."""

from dataclasses import dataclass, replace
from typing import Literal

from .parts import require, require_counts

AMOUNTS = (
    "seed", "warmup", "lr", "min_lr", "weight_decay", "momentum", "clip_grad", "schedule_lag", "cooldown_epochs",
)  # fmt: skip


@dataclass(frozen=True)
class Optimisation:
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
    head_init: Literal["normal", "zero"] = "normal"
    """The head's initial weights: of spread 0.02, or 0."""
    seed: int = 0
    """Weights, order, augmentation and validation split are functions of it."""

    def check_optimisation(self) -> None:
        """ValueError names the flag whose value is out of range, or the flags that do not go together."""
        require_counts(self, "epochs ra batch_size accumulate repeats lr_batch")
        for name in (*AMOUNTS, *(["warmup_lr"] if self.warmup_lr is not None else [])):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        require(0 <= self.smoothing <= 1, "smoothing", self.smoothing, "must be within 0 and 1")
        for name in ("ema_decay", "sd", "drop_rate"):
            require(
                0 <= (getattr(self, name) or 0) < 1,
                name,
                getattr(self, name),
                "must be at least 0 and below 1",
            )
        require(
            0 < self.layer_decay <= 1,
            "layer_decay",
            self.layer_decay,
            "must be above 0 and at most 1",
        )
        require(self.repeats == 1 or self.ra == 1, "repeats", self.repeats, "goes with --ra 1 only")
        needless = self.no_decay and self.decay == "all"
        require(not needless, "no_decay", " ".join(self.no_decay), "needs --decay matrices")
        frozen = self.freeze_backbone and self.layer_decay != 1
        require(not frozen, "layer_decay", self.layer_decay, "does nothing with --freeze_backbone")

    @property
    def peak_lr(self) -> float:
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def course(self) -> dict:
        """The learning rate's course: arguments of engine/schedule.py."""
        floor = self.min_lr if self.warmup_lr is None else self.warmup_lr
        course = {"peak": self.peak_lr, "end": self.min_lr, "warmup": self.warmup, "floor": floor}
        return {
            "schedule": self.schedule,
            "epochs": self.epochs,
            "lag": self.schedule_lag,
            **course,
        }

    @property
    def all_epochs(self) -> int:
        return self.epochs + self.cooldown_epochs

    def share(self, world: int) -> int:
        """Images of a batch per rank and part. ValueError where they do not come out even."""
        if self.batch_size % (world * self.accumulate):
            raise ValueError(
                f"--batch_size {self.batch_size} is not divisible by {world} ranks x {self.accumulate} parts"
            )
        share = self.batch_size // (world * self.accumulate)
        group = 2 * self.mixing(copies=self.repeats).distance
        if share % group and share < self.batch_size and self.mix_prob and (self.cm or self.mu):
            how = "an odd number, and mixing takes them by pairs"
            if group > 2:
                how = f"and mixing with --repeats {self.repeats} takes them by {group}"
            raise ValueError(
                f"--batch_size {self.batch_size} over {world} ranks x {self.accumulate} parts is {share} images each, "
                f"{how}: change one of these, or --mix_prob 0"
            )
        return share

    def shortened(self) -> tuple["Optimisation", list[str]]:
        """The recipe with a warm-up that fits the run, and a line about it if it did not."""
        if self.warmup < self.epochs:
            return self, []
        warmup = self.epochs // 10  # 10 of 100, the published share
        return replace(self, warmup=warmup), [
            f"--warmup {self.warmup} does not fit a run of {self.epochs} epochs: using {warmup}"
        ]
