"""Images brought to one brightness and contrast before a network sees them, as a part of the network."""

from collections.abc import Callable, Hashable
from functools import cache, partial
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
        own = vars(network).get(name)
        if own is not None:  # models/timm.py gives its networks one of their own
            setattr(network, name, partial(_standardised, network, own))
    return network


@cache
def _subclass(network_type: Any) -> type:
    """A subclass and not a wrapper, so that names in state dicts and everything else stay what they were."""
    methods: dict[str, Callable] = {"__reduce_ex__": _reduce}
    for name in TAKE_IMAGES:
        if hasattr(network_type, name):
            methods[name] = _method(getattr(network_type, name))
    return type(f"Standardising{network_type.__name__}", (network_type,), methods)


def _method(own: Callable) -> Callable:
    def standardised(self: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _standardised(self, partial(own, self), images, *args, **kwargs)

    standardised.__doc__ = own.__doc__
    return standardised


def _standardised(network: Any, own: Callable, images: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What one of the network's methods makes of standardised images."""
    if network.standardises_now:  # called by another of these methods
        return own(images, *args, **kwargs)
    network.standardises_now = True
    try:
        return own(standardise(images), *args, **kwargs)
    finally:
        network.standardises_now = False


def _reduce(network: nn.Module, protocol: Any) -> tuple:
    """For pickle, torch.save and copy: the subclass has no name in a file, and is made anew from the class that has."""
    (network_type,) = type(network).__bases__
    reduced: Any = super(type(network), network).__reduce_ex__(protocol)
    state = reduced[2:]  # after what makes an object of the class, and its arguments
    return _new, (network_type,), *state


def _new(network_type: type) -> nn.Module:
    """An object without content, which pickle then fills."""
    subclass: Any = _subclass(cast(Hashable, network_type))
    return subclass.__new__(subclass)
