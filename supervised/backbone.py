"""What stage two asks of a backbone, as a type. models/ keeps the contract; nothing inherits from this class."""

from typing import Protocol

import torch.nn as nn
from torch import Tensor


class MapSize(Protocol):
    """Of one feature map: its channels, and the pixels of the image from one of its places to the next."""

    @property
    def width(self) -> int: ...

    @property
    def stride(self) -> int: ...


class Backbone(nn.Module):
    """Images (B, C, h, w) -> features (B, dim). `cast` names a network so: nn.Module says nothing of its attributes."""

    dim: int
    maps: dict[str, MapSize]

    def forward_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features, and all maps (B, width, h, w) by name."""
        raise NotImplementedError

    def forward_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features of the class token and of the distillation token, where there is one."""
        raise NotImplementedError

    def token_maps(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Both of these, and all maps by name."""
        raise NotImplementedError
