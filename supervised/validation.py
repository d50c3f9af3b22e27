"""Which training images are held out to select an epoch, so that the test images only report."""

import torch


def split(
    labels: torch.Tensor, fraction: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (N,) -> indices of the training and of the validation images, both ascending.

    From each class `fraction` of its images, rounded, is drawn for validation, and of a fraction above 0 at least one;
    at least one image of every class stays.
    """
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        least = 1 if fraction > 0 else 0
        count = min(max(round(fraction * len(members)), least), len(members) - 1)
        order = torch.randperm(len(members), generator=generator)
        held_out[members[order[:count]]] = True
    training = (~held_out).nonzero().squeeze(1)
    validation = held_out.nonzero().squeeze(1)
    return training, validation
