"""KoLeo: features of a batch are pushed away from their nearest neighbour, so that they spread over all directions.

Sablayrolles et al. 2019 (arXiv 1806.03198), section 3.1; with self-distillation as Oquab et al. 2023 (DINOv2, arXiv
2304.07193) use it: on the student's features of the global crops, each view and each rank for itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8  # added to distances before their logarithm, as in DINOv2


def koleo(features: Tensor) -> Tensor:
    """Features (G, B, D) of G views of B >= 2 images -> mean of -log of the distance to the nearest other image.

    Distances are of features of length 1, so the value is at least -log 2, and grows as features fall together.
    """
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(features.float(), dim=-1, eps=EPSILON)
        with torch.no_grad():
            similarity = directions @ directions.mT  # (G, B, B)
            # Below every cosine: nobody is their own neighbour
            similarity.diagonal(dim1=1, dim2=2).fill_(-2)
            nearest = similarity.argmax(-1)
        neighbours = directions.take_along_dim(nearest.unsqueeze(-1), dim=1)
        distances = F.pairwise_distance(directions, neighbours, eps=EPSILON)
        return -(distances + EPSILON).log().mean()
