"""Measurements of a set of images that need no network and no labels. N images of C channels and S x S pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 16  # px at which images are compared with each other
FEWEST = 50  # images: of 12, chance alone gives shares of 0.75
CHUNK = 256  # images at a time, so that large ones do not fill the memory as floats
NEIGHBOUR = 5  # the one whose distance counts: nearer ones may be frames of the same thing


def brightness_share(images: Tensor) -> float:
    """uint8 (N, C, S, S) -> the share of the variance of brightness that lies between images, 0..1; 0 of flat sets."""
    means, squares = [], []
    for chunk in images.split(CHUNK):
        brightness = chunk.float().mean(1).flatten(1).double()
        means.append(brightness.mean(1))
        squares.append(brightness.square().mean(1))
    of_images = torch.cat(means)
    whole = torch.cat(squares).mean() - of_images.mean() ** 2
    if whole <= 0:
        return 0.0
    return (of_images.var(correction=0) / whole).item()


def mirror_share(images: Tensor) -> float:
    """uint8 (N, C, S, S) -> the share of images whose mirror image is less like the others than they are themselves.

    Half of them where left and right do not matter, nearly all of digits. "Like the others" is the cosine to the fifth
    nearest other image, of brightness at 16 px, each image less its mean. 0.5 where there are too few to tell.
    """
    if len(images) < FEWEST:
        return 0.5
    chunks = [chunk.float().mean(1, keepdim=True) for chunk in images.split(CHUNK)]
    small = torch.cat([F.interpolate(chunk, (SIDE, SIDE), mode="area") for chunk in chunks])
    own = _similarity(small, small)
    mirrored = _similarity(small.flip(-1), small)
    farther = (mirrored < own).float() + 0.5 * (mirrored == own)
    return farther.mean().item()


def _similarity(images: Tensor, others: Tensor) -> Tensor:
    """Of each image (N, 1, h, w) to its fifth nearest among the other images, itself left out: (N,)."""
    similarity = _directions(images) @ _directions(others).T
    similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(NEIGHBOUR, dim=1).values[:, -1]


def _directions(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)
