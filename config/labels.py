"""Every setting of `multicrop labels`, with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .checks import A_PERCENTAGE, AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_values, require
from .data import DataSettings
from .knn import Network, ProbeMachine, Weights


@dataclass(frozen=True)
class Draws:
    """The labels."""

    fractions: tuple[float, ...] = (1, 5, 10, 25, 100)
    """Percent of each class's training images whose labels are used; one image at least."""
    draws: int = 3
    """Random draws of each, of which mean and deviation are shown; of 100 percent there is one, but for finetuning."""
    draw_seed: int = 0
    """Number of the first draw; a draw's number decides which images it has, and the seed of its finetuning."""

    def __post_init__(self):
        require(len(self.fractions) > 0, "fractions", "", "needs at least one number")
        check_values(self, A_PERCENTAGE, "fractions")
        check_values(self, AT_LEAST_1, "draws")
        check_values(self, NOT_NEGATIVE, "draw_seed")


@dataclass(frozen=True)
class Methods:
    """What is measured with these labels."""

    knn: bool = True
    """Weighted k-NN of frozen features."""
    nb_knn: int = 20
    """Its number of neighbours; of fewer labelled images, all."""
    temperature: float = 0.07
    """Neighbours vote with weight exp(similarity / temperature)."""
    backend: Literal["auto", "faiss", "torch"] = "auto"
    """Nearest-neighbour search; all are exact."""
    raw_pixels: bool = True
    """Also the k-NN of the images' own pixels, as a baseline."""
    linear: bool = True
    """Logistic regression on frozen features."""
    linear_c: float = 1.0
    """Inverse strength of its L2 penalty, the same for all draws: a few labels leave none to choose it by."""
    finetune: bool = False
    """Finetune the whole network for each draw: a run of stage two each."""
    scratch: bool = False
    """Also train it from random weights for each draw: what the weights are worth."""
    finetune_recipe: str | None = None
    """Recipe file of those runs, as finetune takes it (None: its defaults)."""
    finetune_epochs: int | None = None
    """Epochs of each of them (None: the recipe's)."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "nb_knn", "finetune_epochs")
        check_values(self, POSITIVE, "temperature", "linear_c")
        if not (self.knn or self.linear or self.trains):
            raise ValueError(
                "nothing to measure: one of --knn, --linear, --finetune, --scratch must be true"
            )
        for name in ("finetune_recipe", "finetune_epochs"):
            value = getattr(self, name)
            words = "needs --finetune true or --scratch true"
            require(self.trains or value is None, name, value, words)

    @property
    def trains(self) -> bool:
        """Whether there are runs of stage two."""
        return self.finetune or self.scratch


@dataclass(frozen=True)
class LabelsMachine(ProbeMachine):
    """The machine and the result."""

    output_dir: str | None = None
    """Folder of the rows, the picture and the runs of finetuning (None: labels/ beside the checkpoint, for
    published weights runs/labels)."""


@dataclass(frozen=True)
class Recipe:
    """How accuracy grows with the number of labels, on frozen features and by finetuning."""

    model: Annotated[str, tyro.conf.Positional]
    """Run folder, of which the newest checkpoint is taken, checkpoint file or published:NAME."""
    labels: Draws = Draws()
    methods: Methods = Methods()
    weights: Weights = Weights()
    backbone: Network = Network()
    data: DataSettings = DataSettings()
    machine: LabelsMachine = LabelsMachine()
