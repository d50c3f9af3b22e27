"""Every number of stage two, with its unit and default. Names and defaults are those of the published command line.

Where the published command line and the published behaviour disagree, the behaviour's value is the default and the flag
does what it says: --ls, --aa, --cm and --mu turn things on (they are on), --smoothing is used.
"""

from dataclasses import dataclass
from typing import ClassVar

from .augmentation import Augmentation
from .optimisation import Optimisation
from .parts import BackboneFlags, DataFlags, RunFlags, require, require_counts
from .teacher import TeacherFlags


@dataclass(frozen=True)
class Start:
    """Which weights training starts from."""

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


@dataclass(frozen=True)
class Recipe(TeacherFlags, Optimisation, Augmentation, RunFlags, DataFlags, BackboneFlags, Start):
    """Stage two: a classifier, from a pretrained backbone or from scratch."""

    # --help shows the flags of the last of these parts first.

    val_fraction: float = 0.1
    """Share of each class's training images held out to select the best epoch; 0 (as published): none, no selection."""
    output_dir: str = "runs/finetune"
    """Run folder; a run that is there is resumed."""
    eval_freq: int = 1
    """Epochs between accuracies on the validation images (without them: on the test images, to look at only)."""

    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "trust_checkpoint", "eval", "datapath", "download", "workers", "device", "compile", "deterministic",
        "output_dir", "max_steps", "save_steps", "log_freq", "accumulate", "batch_size",
    )  # fmt: skip
    """Fields that may change when a run is resumed (the global batch is compared as a whole)."""

    def __post_init__(self):
        self.check_backbone()
        self.check_data()
        self.check_run()
        require_counts(self, "eval_freq")
        require(
            0 <= self.val_fraction < 1,
            "val_fraction",
            self.val_fraction,
            "must be at least 0 and below 1",
        )
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
        given = self.stated("drop_rate")
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
