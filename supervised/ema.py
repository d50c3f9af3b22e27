"""A moving average of a network's weights, kept beside it and evaluated.

Tarvainen and Valpola 2017, arXiv 1703.01780; the arithmetic is that of timm's ModelEmaV3.
"""

from typing import Generic, TypeVar, cast

import torch.nn as nn
from timm.utils import ModelEmaV3
from torch import Tensor

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """After each step: average = decay * average + (1 - decay) * network, for parameters and buffers alike.

    Integer buffers are copied. Nothing but the average is state: the decay is a function of the step. Up to step
    `start` the average is a copy. With warmup=True the decay then grows as 1 - (steps since then)^(-2/3) up to `decay`,
    so that the initial weights are soon forgotten. Without, it is `decay` at once, as published for DHVT: 0.99996,
    where after 29,100 steps 31 % of the initial weights are still in the average. With `every` > 1 only each such step
    counts.
    """

    def __init__(
        self,
        model: Network,
        decay: float,
        *,
        warmup: bool = False,
        start: int = 0,
        every: int = 1,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(
                f"the decay of the averaged weights is {decay}; it must be between 0 and 1"
            )
        if every < 1:
            raise ValueError(
                f"the averaged weights follow every {every} steps; it must be at least 1"
            )
        self.average = ModelEmaV3(model, decay=decay, use_warmup=warmup).requires_grad_(False)
        self.warmup, self.start, self.every = warmup, start, every

    @property
    def model(self) -> Network:
        """The network with the averaged weights, in evaluation mode."""
        return cast(Network, self.average.module)

    def update(self, model: nn.Module, steps: int) -> None:
        """Average in the network's weights after so many optimizer steps: 1, 2, ..."""
        if steps % self.every == 0:
            self.average.apply_update_(model, self.decay(steps))

    def decay(self, steps: int) -> float:
        """The decay of the update after so many steps."""
        if steps <= self.start:
            return 0.0
        if not self.warmup:
            return self.average.get_decay()
        return self.average.get_decay(steps - self.start)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged network's state dict, names as the network's own."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from an averaged network's state dict."""
        self.model.load_state_dict(state)
