"""Images brought to one brightness and contrast before a network sees them, as a part of the network."""

from collections.abc import Callable, Hashable
from functools import cache
from types import MethodType
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor

LEAST_DEVIATION = 0.05  # a flat image's noise is not blown up beyond this
TAKE_IMAGES = ("forward", "forward_maps", "attention", "intermediate")


def standardise(images: Tensor) -> Tensor:
    """Images (B, C, h, w) -> the same, each of mean 0 and deviation 1 over all its pixels and channels.

    Colours keep their relation to each other.
    """
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return (images - mean) / deviation.clamp(min=LEAST_DEVIATION)


def standardising(network: nn.Module) -> nn.Module:
    """The network itself, from now on with `standardise` before all that it makes of images; its names stay."""
    network.__class__ = _subclass(cast(Hashable, type(network)))
    network.standardises_now = False  # type: ignore[assignment]
    for name in TAKE_IMAGES:
        bound = vars(network).get(name)
        if isinstance(bound, MethodType):  # models/timm.py gives its networks one of their own
            setattr(network, name, MethodType(_method(bound.__func__), network))
    return network


@cache
def _subclass(network_type: Any) -> type:
    """A subclass and not a wrapper, so that names in state dicts and everything else stay what they were."""
    methods = {
        name: _method(getattr(network_type, name))
        for name in TAKE_IMAGES
        if hasattr(network_type, name)
    }
    return type(f"Standardising{network_type.__name__}", (network_type,), methods)


def _method(own: Callable) -> Callable:
    def standardised(self: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.standardises_now:  # called by another of these methods
            return own(self, images, *args, **kwargs)
        self.standardises_now = True
        try:
            return own(self, standardise(images), *args, **kwargs)
        finally:
            self.standardises_now = False

    standardised.__doc__ = own.__doc__
    return standardised
