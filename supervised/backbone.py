"""What stage two needs of a backbone, as types. The networks of models/ have it; they need not inherit from this."""

from collections.abc import Mapping
from typing import Protocol

import torch.nn as nn
from torch import Tensor


class MapSize(Protocol):
    """The size of a feature map: its channels, and the pixels of the image from one of its places to the next."""

    @property
    def width(self) -> int: ...

    @property
    def stride(self) -> int: ...


class Backbone(nn.Module):
    """Images (B, C, h, w) -> features (B, dim).

    A network is cast to this type, because nn.Module does not say what type its attributes have. It has `forward_maps`
    where it can be guided, and the methods of tokens where it has a distillation token.
    """

    dim: int
    maps: Mapping[str, MapSize]

    def forward_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features, and all maps (B, width, h, w) by name."""
        raise NotImplementedError

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features (B, dim) of the class token and of the distillation token."""
        raise NotImplementedError

    def token_maps(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Both of these, and all maps (B, width, h, w) by name."""
        raise NotImplementedError
