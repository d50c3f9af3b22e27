"""Which images have a label when only a part of the labels may be used: draws for the label-efficiency curve."""

import torch
from torch import Tensor


def draw_labels(labels: Tensor, percent: float, generator: torch.Generator) -> Tensor:
    """Labels (N,) -> indices of the images whose labels are used, ascending.

    From each class `percent` of its images, rounded, and one at least. Of one generator's state a smaller draw is a
    part of every larger one.
    """
    used = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        count = max(1, round(percent / 100 * len(members)))
        used[members[order[:count]]] = True
    return used.nonzero().squeeze(1)
