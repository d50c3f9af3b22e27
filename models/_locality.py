"""LocalityFeedForward: Li et al. 2021 (LocalViT), arXiv 2104.05707, section 3 (github.com/ofsoundof/LocalViT, MIT).

A feed-forward of 1 x 1 convolutions with a depth-wise 3 x 3 convolution between them, batch norm after each, and a
gate on the hidden channels: SE (Hu et al. 2018, arXiv 1709.01507) or ECA (Wang et al. 2020, arXiv 1910.03151).
Module names are the published ones.
"""

import math
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor

from ._maps import Grid, to_map, to_tokens


class HSwish(nn.Module):
    """x * relu6(x + 3) / 6, rounded as published; nn.Hardswish takes 10 % off a step but strays by 4e-5 of 1 at 2e3."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(x)


# The published code means ReLU6 by "relu" too; "ecah" is ECA with the piecewise linear sigmoid.
NONLINEARITIES: dict[str, type[nn.Module]] = {"relu": nn.ReLU6, "relu6": nn.ReLU6, "hs": HSwish}
GATES = ("", "se", "eca", "ecah")
ACTS = tuple(f"{name}+{gate}".rstrip("+") for name in NONLINEARITIES for gate in GATES)
DEPTHWISE = ("second", "first", "none")


class LocalityFeedForward(nn.Module):
    """A map (B, C, h, w) plus what the convolutions make of it; the residual is inside.

    act: one of ACTS, nonlinearity and gate, e.g. "hs+se" (h-swish and SE).
    reduction: SE's hidden units are a fraction 1 / reduction of the H = C * ratio hidden channels.
    depthwise: "second", on the hidden channels, "first", on the incoming ones, or "none".
    drop_path: stochastic depth, published without.

    ValueError for an act, a place or a reduction that cannot be.
    """

    def __init__(
        self,
        width: int,
        ratio: float = 4.0,
        act: str = "hs+se",
        reduction: int = 4,
        depthwise: str = "second",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_act(act)
        if depthwise not in DEPTHWISE:
            raise ValueError(
                f"the depth-wise convolution goes {', '.join(DEPTHWISE)}, not {depthwise!r}"
            )
        hidden = int(width * ratio)
        if hidden < 1:
            raise ValueError(f"an MLP ratio of {ratio} leaves none of {width} channels")
        name, _, gate = act.partition("+")
        nonlinearity = NONLINEARITIES[name]
        layers = [*_convolution(width, hidden, 1), nonlinearity()]
        if depthwise == "first":
            first = _convolution(width, width, 3, groups=width)
            layers = [*first, nonlinearity(), *layers]
        elif depthwise == "second":
            layers += [*_convolution(hidden, hidden, 3, groups=hidden), nonlinearity()]
        if gate:
            layers.append(_gate(gate, hidden, reduction))
        self.conv = nn.Sequential(*layers, *_convolution(hidden, width, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv(x))

    def mix_tokens(self, x: Tensor, grid: Grid, prefix: int = 0) -> Tensor:
        """Tokens (B, prefix + h * w, C), row by row for grid = (h, w) -> the same shape; prefix tokens stay as are."""
        patches = to_tokens(self(to_map(x, grid, prefix)))
        if not prefix:
            return patches
        return torch.cat([x[:, :prefix], patches], dim=1)


class SE(nn.Module):
    """Squeeze and excitation: (B, C, h, w) times a factor in 0..1 per channel, a small MLP of all channels' means."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        if reduction < 1 or channels // reduction < 1:
            raise ValueError(
                f"an SE reduction of {reduction} leaves none of {channels} hidden channels; take less"
            )
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        factors = self.fc(x.mean((2, 3)))
        return x * factors[:, :, None, None]


class ECA(nn.Module):
    """Efficient channel attention: as SE, but each factor comes from the means of a few neighbouring channels."""

    def __init__(self, channels: int, hard: bool = False) -> None:
        super().__init__()
        size = int(abs((math.log2(channels) + 1) / 2)) | 1  # odd, and never 0
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.squash: Callable[[Tensor], Tensor] = F.hardsigmoid if hard else torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))[:, None]
        factors = self.squash(self.conv(means))[:, 0]
        return x * factors[:, :, None, None]


def check_act(act: str) -> None:
    """ValueError unless `act` is one of ACTS."""
    if act not in ACTS:
        raise ValueError(f"no activation is called {act!r}; known: {', '.join(ACTS)}")


def _convolution(
    channels: int, width: int, kernel: int, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(width)


def _gate(gate: str, channels: int, reduction: int) -> nn.Module:
    if gate == "se":
        return SE(channels, reduction)
    return ECA(channels, hard=gate == "ecah")
