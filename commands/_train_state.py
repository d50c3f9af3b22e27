"""All of stage two that a step changes and a checkpoint holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn as nn

from multicrop.supervised.classifier import Classifier
from multicrop.supervised.ema import Ema
from multicrop.supervised.guidance import Guidance
from multicrop.supervised.loss import Loss
from multicrop.supervised.selection import BestEpoch
from multicrop.supervised.teacher import Teacher


@dataclass
class Networks:
    model: Classifier
    learner: (
        nn.Module
    )  # the TrainModule around it as the loop calls it: compiled, gradients averaged over the ranks
    loss: Loss
    teacher: Teacher | None
    guidance: Guidance | None  # its projections learn too
    stored: Callable | None  # what gives a batch's maps of the teacher, where they are stored
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Ema[Classifier] | None  # of the model's weights
    best: BestEpoch = field(
        default_factory=BestEpoch
    )  # the epoch that the validation images select

    PARTS: ClassVar = ("model", "guidance", "optimizer", "scaler", "best", "average")

    @property
    def watched(self) -> Classifier:
        """The model that is measured and selected: the averaged one where there is one."""
        return self.average.model if self.average else self.model

    def follow(self, done: int) -> None:
        """Average the weights after a step."""
        if self.average:
            self.average.update(self.model, done)

    def state(self) -> dict:
        return {
            name: part.state_dict()
            for name in self.PARTS
            if (part := getattr(self, name)) is not None
        }

    def load_state(self, state: dict) -> None:
        for name in self.PARTS:
            if getattr(self, name) is not None:
                getattr(self, name).load_state_dict(state[name])
