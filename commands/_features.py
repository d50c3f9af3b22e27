"""The features of images under a frozen network, the work shared by the ranks."""

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.probes.features import extract_features


def shared_features(
    network: nn.Module,
    images: ImageSet,
    indices: Tensor,
    transform: EvalTransform,
    device: torch.device,
    dtype: torch.dtype | None,
    batch_size: int = 256,
) -> Tensor:
    """What the network gives of these images (N,) -> (N, D) on every rank, in their order; each computes a stretch."""
    start = len(indices) * ranks.rank() // ranks.world_size()
    stop = len(indices) * (ranks.rank() + 1) // ranks.world_size()
    own = extract_features(
        network, images.pixels, transform, batch_size, device, dtype, indices=indices[start:stop]
    )
    return ranks.gather(own)
