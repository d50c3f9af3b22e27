"""Every setting of stage two, with its unit and default. Names and defaults are those of the published command line.

Where the published command line and the published behaviour disagree, the behaviour's value is the default and the flag
does what it says: --ls, --aa, --cm and --mu turn things on (they are on), --smoothing is used.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from .augmentation import Augmentation
from .backbone import NEW_OPTIONS, BackboneSettings
from .checks import (
    A_PERCENTAGE,
    AT_LEAST_1,
    NOT_NEGATIVE,
    SHARE_BELOW_1,
    check_values,
    require,
)
from .data import NEW_COLUMNS, PIXEL_FLAGS, DataSettings
from .flags import NOT_A_FLAG, Given
from .machine import RunSettings
from .optimisation import FinetuneOptimisation
from .teaching import Teaching


@dataclass(frozen=True)
class Start:
    """Where training starts: one of --pretrained_weights, --scratch and --eval."""

    pretrained_weights: str | None = None
    """File or run folder to start from (of stage one or two, of the published code, of timm, or any state dict), or
    published:NAME, which `multicrop weights` lists."""
    checkpoint_key: str = "teacher"
    """Which network of a file that holds several: teacher or student of stage one, average of stage two, or the name
    of any part of another program's file."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""
    scratch: bool = False
    """Start from random weights."""
    eval: bool = False
    """Only measure a classifier, that of --pretrained_weights or the newest in --output_dir, on the test split of
    --datapath, or on all of its images where they are not split."""

    def check(self) -> None:
        """ValueError unless there is one start. A recipe file alone need not have it: the command line may."""
        if self.scratch and (self.eval or self.pretrained_weights):
            other = "--eval" if self.eval else "--pretrained_weights"
            raise ValueError(f"--scratch starts from random weights: leave it or {other} out")
        if not (self.scratch or self.eval or self.pretrained_weights):
            raise ValueError(
                "no weights to start from: give --pretrained_weights FILE (of stage one, say runs/ssl), "
                "--scratch for random ones, or --eval to evaluate a finetuned checkpoint"
            )


@dataclass(frozen=True)
class FinetuneRun(RunSettings):
    """The run and the machine."""

    validation: Literal["auto", "own", "held_out"] = "auto"
    """Which images select the best epoch: the data set's own validation split, or training images that are held out
    (auto: own, where there is one beside a training and a test split)."""
    val_fraction: float = 0.1
    """Share of each class's training images held out, one image at least; 0 (as published): no validation images, no
    selection."""
    label_percent: float = 100.0
    """Percent of each class's training images whose labels are used, one image at least; of these images alone some are
    held out. `multicrop labels` varies it."""
    label_draw: int = 0
    """Which images these are is a function of it; a smaller percentage has a part of those of a larger one."""
    select: Literal["top1", "balanced"] = "top1"
    """What the best epoch is best at: top-1, or the balanced accuracy: the mean of the classes' accuracies."""
    output_dir: str = "runs/finetune"
    """Run folder; a run that is there is resumed. Of --eval: where results go; in a run folder, and where none is given
    beside the checkpoint, in a folder eval of its own."""
    eval_freq: int = 1
    """Epochs between accuracies on the validation images (--val_fraction 0: on the test images, to look at only)."""

    def __post_init__(self):
        super().__post_init__()
        check_values(self, AT_LEAST_1, "eval_freq")
        check_values(self, SHARE_BELOW_1, "val_fraction")
        check_values(self, A_PERCENTAGE, "label_percent")
        check_values(self, NOT_NEGATIVE, "label_draw")

    @property
    def selected_metric(self) -> str:
        """The name of the validation accuracy that selects."""
        return {"top1": "val_top1", "balanced": "val_balanced_accuracy"}[self.select]


@dataclass(frozen=True)
class Recipe:
    """Stage two: a classifier, from a pretrained backbone or from scratch."""

    start: Start = Start()
    backbone: BackboneSettings = BackboneSettings()
    data: DataSettings = DataSettings()
    run: FinetuneRun = FinetuneRun()
    augmentation: Augmentation = Augmentation()
    optimisation: FinetuneOptimisation = FinetuneOptimisation()
    teaching: Teaching = Teaching()
    given: Annotated[Given | None, tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default=None, metadata=NOT_A_FLAG
    )

    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "trust_checkpoint", "eval", "datapath", "download", "workers", "device", "compile", "graph",
        "attention", "checkpoint_activations", "deterministic", "output_dir", "max_steps", "save_steps", "log_freq",
        "log", "report", "accumulate", "batch_size", *PIXEL_FLAGS,
    )  # fmt: skip
    """Flags that may change when a run is resumed (the global batch is compared as a whole)."""

    ADDED: ClassVar[dict[str, Any]] = NEW_OPTIONS | NEW_COLUMNS | PIXEL_FLAGS | {
        "resample": "bilinear", "padding_fill": "black", "select": "top1", "balanced_sampler": False,
        "class_weights": "none",
        "validation": "held_out", "label_percent": 100.0, "label_draw": 0, "teacher_key": "teacher",
    }  # fmt: skip
    """Flags that runs of older versions did not have, and what they did."""

    def __post_init__(self):
        """What the parts cannot check alone."""
        teaching = self.teaching
        frozen = teaching.guides and self.optimisation.freeze_backbone
        words = "guides the backbone: not with --freeze_backbone"
        require(not frozen, "guidance", teaching.guidance, words)
        mixed = teaching.distillation == "decoupled" and self.augmentation.mixes
        words = "needs one label for each image: --mix_prob 0"
        require(not mixed, "distillation", teaching.distillation, words)
        if teaching.guidance_features:
            check_stored_maps(self.augmentation)

    def shortened(self) -> tuple["Recipe", list[str]]:
        """The recipe with a warm-up that fits the run, and a line about it if it did not."""
        optimisation, lines = self.optimisation.shortened()
        return replace(self, optimisation=optimisation), lines

    def selects(self, epoch: int, ended: bool) -> bool:
        """Whether an epoch takes part in the selection of the best: every --eval_freq-th and the last of the recipe."""
        last = epoch == self.optimisation.all_epochs
        return ended and (epoch % self.run.eval_freq == 0 or last)


def check_stored_maps(augmentation: Augmentation) -> None:
    """ValueError unless stored maps can follow what is done to images: they are cut and flipped, no more."""
    stored = "--guidance_features: stored maps are only cut and flipped as the images are"
    if augmentation.aa:
        moves = "rotates, shears and translates images"
        raise ValueError(f"{stored}, but --aa_policy {augmentation.aa_policy} {moves}: --aa false")
    if augmentation.mixes:
        kinds = [
            name for name, on in (("CutMix", augmentation.cm), ("MixUp", augmentation.mu)) if on
        ]
        raise ValueError(
            f"{stored}, but {' and '.join(kinds)} would mix images alone: --mix_prob 0"
        )
