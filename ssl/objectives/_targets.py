"""Targets that are distributions over prototypes: how they are balanced, and what shows that they have collapsed.

G global crops, B images, K prototypes. Entropies are in nats.
"""

import torch
from torch import Tensor

from ._base import Average

ITERATIONS = 3


@torch.no_grad()
def sinkhorn(logits: Tensor, average: Average) -> Tensor:
    """Logits over the temperature (G, B, K) -> probabilities that use all prototypes alike over the batch.

    Sinkhorn-Knopp as in SwAV (Caron et al. 2020, arXiv 2006.09882, section 3.1) and DINOv2 (arXiv 2304.07193), over all
    views, images and ranks together. `average` gives the mean over ranks. It begins with the softmax, each view's share
    being 1, so that no exponential overflows.
    """
    probabilities = logits.float().softmax(-1)
    prototypes = probabilities.shape[-1]
    for _ in range(ITERATIONS):
        use = average(probabilities.mean((0, 1)))
        probabilities = probabilities / (use * prototypes).clamp(min=torch.finfo(use.dtype).tiny)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


@torch.no_grad()
def target_statistics(targets: Tensor) -> dict[str, float]:
    """Probabilities (G, B, K) -> three numbers.

    target_entropy   mean over views of the entropy of a view's target; ln K is uniform, 0 is one prototype
    mean_entropy     entropy of the mean target of the batch; ln K uses all prototypes alike, 0 uses one
    target_gap       their difference: what a target tells about its image, at most ln B; 0 says all are the same
    """
    targets = targets.float().flatten(0, -2)
    target_entropy = _entropy(targets).mean().item()
    mean_entropy = _entropy(targets.mean(0)).item()
    return {
        "target_entropy": target_entropy,
        "mean_entropy": mean_entropy,
        "target_gap": mean_entropy - target_entropy,
    }


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)
