"""Every setting of `multicrop robustness`, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from .checks import AT_LEAST_1, NOT_NEGATIVE, Rule, check_values, require
from .data import DataSettings
from .machine import Machine, Precision

SEVERITIES = (1, 2, 3, 4, 5)
A_SEVERITY = Rule(lambda value: value in SEVERITIES, "must be within 1 and 5")


@dataclass(frozen=True)
class Corruption:
    """The corruptions."""

    corruptions: tuple[str, ...] = ()
    """Which, say fog snow (none: the fifteen of the published mean, but for frost where they are made here)."""
    severities: tuple[int, ...] = SEVERITIES
    """How strong: 1 to 5."""
    seed: int = 0
    """The corrupted images are a function of it."""
    published: str | None = None
    """Folder of published files (CIFAR-10-C, CIFAR-100-C, Tiny-ImageNet-C) to read instead of making images."""
    reference: str | None = None
    """Result of another network (its run folder or robustness.json) that errors are divided by, as mCE has it."""

    def __post_init__(self):
        require(len(self.severities) > 0, "severities", "", "needs at least one number")
        check_values(self, A_SEVERITY, "severities")
        check_values(self, NOT_NEGATIVE, "seed")


@dataclass(frozen=True)
class RobustnessMachine(Machine):
    """The machine and the result."""

    batch_size: int = 256
    """Images per forward pass."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto: bf16 on CUDA, else fp32."""
    output_dir: str | None = None
    """Folder of the table and the picture (None: beside the checkpoint)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "batch_size")


@dataclass(frozen=True)
class Recipe:
    """A classifier's errors on corrupted test images, and how far its probabilities can be trusted.

    Every corruption at every severity, the clean images first; the mean over all is the mean corruption error.
    """

    ALIASES: ClassVar = {"batch_size_per_gpu": "batch_size"}

    model: Annotated[str, tyro.conf.Positional]
    """Run folder or checkpoint of finetune."""
    trust_checkpoint: bool = False
    """Load files that hold Python objects (as the published ones do), which can run code."""
    corruption: Corruption = Corruption()
    data: DataSettings = DataSettings()
    machine: RobustnessMachine = RobustnessMachine()
