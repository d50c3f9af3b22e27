"""Which training images are held out to select an epoch, so that the test images only report."""

import torch


def split(
    labels: torch.Tensor, fraction: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (N,) -> indices of the training and of the validation images, both ascending.

    From each class `fraction` of its images, rounded, is drawn for validation; at least one image of every class stays.
    """
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = min(round(fraction * len(members)), len(members) - 1)
        order = torch.randperm(len(members), generator=generator)
        held_out[members[order[:count]]] = True
    training = (~held_out).nonzero().squeeze(1)
    validation = held_out.nonzero().squeeze(1)
    return training, validation
