"""Contrast: each global crop finds the other one of its image among all global crops of the batch (NT-Xent).

Chen et al. 2020 (arXiv 2002.05709), eq. 1. By itself it is the objective `simclr`; beside self-distillation it tells
images apart from the first step on, which prototypes learn late. The other images of the batch that a rank holds are
the negatives. B images, K the width of the head's outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.2  # beside another objective; `simclr` has --student_temp


def contrast(outputs: Tensor) -> Tensor:
    """Outputs of the two global crops (2, B, K) of B >= 2 images -> nats per crop, log(2B - 1) where all are alike."""
    with torch.autocast(outputs.device.type, enabled=False):
        return nt_xent(outputs, TEMPERATURE)


def nt_xent(outputs: Tensor, temperature: float) -> Tensor:
    """(2, B, K) -> nats per crop; under autocast its products are in half precision."""
    similarity, partners = similarities(outputs, temperature)
    return F.cross_entropy(similarity, partners)


def similarities(outputs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(2, B, K) -> cosine similarity of all pairs of crops over the temperature (2B, 2B), each crop's partner (2B,).

    A crop's similarity to itself is minus infinity. The first crops of all images come before the second ones.
    """
    crops = F.normalize(outputs.float().flatten(0, 1), dim=1)
    similarity = crops @ crops.T / temperature
    itself = torch.eye(len(crops), dtype=torch.bool, device=crops.device)
    partners = torch.arange(len(crops), device=crops.device).roll(outputs.shape[1])
    return similarity.masked_fill(itself, -torch.inf), partners
