"""Weights of classes that have unequally many images."""

import torch
from torch import Tensor


def inverse_frequencies(labels: Tensor, classes: int) -> Tensor:
    """Labels (N,) of the training images -> a weight for each class (classes,): N / (classes x its images).

    Of the classes that have images, that is; one without has the weight 0. The mean over all images is 1, so that the
    loss keeps its scale (King and Zeng 2001, "Logistic regression in rare events data", as scikit-learn's "balanced").
    """
    images = torch.bincount(labels, minlength=classes)
    with_images = images > 0
    weights = len(labels) / (with_images.sum() * images.clamp(min=1))
    return weights * with_images
