"""The features of images under a frozen network, the work shared by the ranks."""

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment.device import send
from multicrop.augment.evaluation import EvalTransform
from multicrop.datasets._console import say_once
from multicrop.datasets._images import ImageSet
from multicrop.datasets._stream import readable, say_lost_classes
from multicrop.engine import ranks, sharding
from multicrop.probes.features import extract_features


class Features(NamedTuple):
    """Of those images whose files can be read: of streamed ones that is known once they are asked for."""

    values: Tensor
    """float32 (n, D), on the device."""
    indices: Tensor
    """int64 (n,), on the CPU: which images these are."""


class Stretch(NamedTuple):
    """This rank's of the features that all ranks compute: those of the images after the stretches of lower ranks."""

    values: Tensor
    """float32 (n, D), on the device."""
    indices: Tensor
    """int64 (n,), on the CPU: which images these are."""
    total: int
    """The number of images in the stretches of all ranks."""


def shared_features(
    network: nn.Module,
    images: ImageSet,
    indices: Tensor,
    transform: EvalTransform,
    device: torch.device,
    dtype: torch.dtype | None,
    batch_size: int = 256,
) -> Features:
    """What the network gives of these images (N,), on every rank, in their order; each computes a stretch.

    What cannot be read is left out, and its number said. ValueError where that is all.
    """
    return gathered(
        own_features(network, images, indices, transform, device, dtype, batch_size), to=None
    )


def own_features(
    network: nn.Module,
    images: ImageSet,
    indices: Tensor,
    transform: EvalTransform,
    device: torch.device,
    dtype: torch.dtype | None,
    batch_size: int = 256,
) -> Stretch:
    """The part of `shared_features` that this rank computes, and nothing of the others'."""
    start = len(indices) * ranks.rank() // ranks.world_size()
    stop = len(indices) * (ranks.rank() + 1) // ranks.world_size()
    own = indices[start:stop]
    asked = own
    if sharding.is_sharded(network):
        # All ranks take part in each forward pass, so that each needs as many images as the one that has most
        most = -(-len(indices) // ranks.world_size())
        asked = torch.cat([own, indices[:1].expand(most - len(own))])
    values = extract_features(
        network, images.pixels, transform, batch_size, device, dtype, indices=asked
    )[: len(own)]
    mask = readable(images.pixels, own)
    kept = own[mask]
    if len(kept) < len(own):  # by row numbers: for a mask a GPU is asked how many it keeps
        values = values[send(mask.nonzero().flatten(), values.device)]
    total = sum(ranks.gather_objects(len(kept)))
    if total < len(indices):
        _say_left_out(images, indices, ranks.gather(kept))
    return Stretch(values, kept, total)


def gathered(stretch: Stretch, to: int | None) -> Features:
    """The stretches of all ranks, side by side. to: the rank that gets them, the others get none; None: every rank."""
    return Features(ranks.gather(stretch.values, to), ranks.gather(stretch.indices, to))


def _say_left_out(images: ImageSet, indices: Tensor, kept: Tensor) -> None:
    """ValueError where nothing is kept."""
    count = len(indices) - len(kept)
    if not len(kept):
        raise ValueError(f"none of {count} images can be read: mend or fetch them again")
    say_once(f"left out of the scores: {count} unreadable of {len(indices)} images")
    if images.labels is not None:
        say_lost_classes(images.labels[indices], images.labels[kept], images.classes)
