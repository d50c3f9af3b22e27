"""Every setting of `multicrop linear`, with its unit and default. Those of --probe sgd are the published ones."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from .checks import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_0,
    Rule,
    check_bounds,
    check_values,
    require,
)
from .knn import Network, ProbeData, ProbeMachine, Weights
from .learning_rate import scaled_lr

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
LR_BATCH = 256
A_PART = Rule(lambda value: 0 < value < 1, "must be above 0 and below 1")


@dataclass(frozen=True)
class LinearProbe:
    """The probe."""

    probe: Literal["logistic", "sgd"] = "logistic"
    """logistic: logistic regression (scikit-learn) on features of whole images, computed once. sgd: a linear layer
    trained on augmented images, as in DINO's eval_linear.py."""
    n_last_blocks: int | None = None
    """Take the class tokens of so many last blocks, side by side, not the network's own features (None: 4 for sgd, as
    published for ViT-S, where the network has class tokens; the network's own for logistic)."""
    avgpool_patchtokens: bool = False
    """Beside them the mean patch token of the last block (published: true for ViT-B, with one block)."""
    validation: Literal["auto", "own", "held_out"] = "auto"
    """Which images choose C or the learning rate: the data set's own validation split, or training images that are held
    out (auto: own, where there is one beside a training and a test split)."""
    val_fraction: float = 0.1
    """Share of each class's training images held out for that, one image at least."""
    linear_c: tuple[float, ...] | None = None
    """Of logistic: inverse strengths of the L2 penalty to choose from; one number is taken as it is (None: CLIP's
    search, 1e-6 to 1e6)."""
    probe_seed: int = 0
    """Held-out images, and of sgd first weights, order and augmentation, are functions of it."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "n_last_blocks")
        check_values(self, A_PART, "val_fraction")
        require(self.linear_c != (), "linear_c", "", "needs at least one number")
        check_values(self, POSITIVE, "linear_c")
        check_values(self, NOT_NEGATIVE, "probe_seed")

    @property
    def blocks(self) -> int:
        """The blocks that are wanted; 0: the network's own features."""
        if self.n_last_blocks is not None:
            return self.n_last_blocks
        return 4 if self.probe == "sgd" else int(self.avgpool_patchtokens)


@dataclass(frozen=True)
class SgdProbe:
    """Of --probe sgd: how the linear layer is trained."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size_per_gpu: int = 128
    """Images per step and process; of fewer training images, all."""
    lr: tuple[float, ...] = RATES
    """Peak learning rates for 256 images per step, scaled by the batch: one linear layer each, trained at once, and the
    validation images choose (the default: DINOv2's; DINO: 0.001, and with a single one all images train)."""
    momentum: float = 0.9
    """Of SGD; there is no weight decay."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crops: least and greatest share of the image's area."""
    flip: float | None = None
    """Probability of a mirrored image (None: 0.5; 0 for SVHN, and where the network's training did not mirror)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "epochs", "batch_size_per_gpu")
        require(len(self.lr) > 0, "lr", "", "needs at least one number")
        check_values(self, POSITIVE, "lr")
        check_values(self, SHARE, "momentum", "flip")
        check_values(self, SHARE_ABOVE_0, "crop_scale")
        check_bounds(self, "crop_scale")

    def rates(self, batch: int) -> list[float]:
        """The peaks for a global batch."""
        return [scaled_lr(lr, batch, LR_BATCH) for lr in self.lr]


@dataclass(frozen=True)
class Recipe:
    """The linear probe: how well a linear classifier on frozen features tells test images apart.

    What it chooses, it chooses by validation images; the test images only report.
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, of which the newest checkpoint is taken, checkpoint file or published:NAME."""
    linear: LinearProbe = LinearProbe()
    sgd: SgdProbe = SgdProbe()
    weights: Weights = Weights()
    backbone: Network = Network()
    data: ProbeData = ProbeData()
    machine: ProbeMachine = ProbeMachine()

    def __post_init__(self):
        if self.linear.probe == "sgd":
            words = "is for --probe logistic"
            require(self.linear.linear_c is None, "linear_c", self.linear.linear_c, words)
            return
        for field in fields(SgdProbe):
            value = getattr(self.sgd, field.name)
            require(value == field.default, field.name, value, "is for --probe sgd")
