"""Labels that are probably wrong: a classifier that has not seen an image, and its neighbours, say another class.

Confident learning, Northcutt et al. 2021 (arXiv 1911.00068), section 3.1: an image counts as another class where the
probability of that class is at least what images of that class have on average. N images, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import linear
from .knn import search

FOLDS = 5
NEIGHBOURS = 10


class Suspect(NamedTuple):
    image: int
    label: int
    proposed: int
    """The class that it probably is."""
    margin: float
    """Probability of the proposed class minus that of the label."""
    agreeing: float
    """Share of its nearest neighbours that have its label."""


def suspect_labels(features: Tensor, labels: Tensor, seed: int = 0) -> list[Suspect]:
    """Features (N, D) and labels (N,) -> the images whose label is doubtful, the most doubtful first.

    Both must say so: the classifier by confident learning, and half of the neighbours. Classes of fewer images than
    folds are not judged. ValueError where fewer than two classes are left.
    """
    labels = labels.cpu().long()
    features = features.detach().float().cpu()
    counts = labels.bincount()
    judged = (counts[labels] >= FOLDS).nonzero()[:, 0]
    kept = counts >= FOLDS
    if kept.sum() < 2:
        raise ValueError(f"labels are judged where two classes have {FOLDS} images or more")
    classes = kept.nonzero()[:, 0]
    dense = (kept.cumsum(0) - 1)[labels[judged]]
    probabilities = held_out_probabilities(features[judged], dense, seed)
    agreeing = neighbours_agreeing(features[judged], dense)
    found = []
    for row, proposed in confident_disagreements(probabilities, dense).items():
        label = int(dense[row])
        margin = float(probabilities[row, proposed] - probabilities[row, label])
        if agreeing[row] < 0.5:
            suspect = Suspect(
                int(judged[row]),
                int(classes[label]),
                int(classes[proposed]),
                margin,
                float(agreeing[row]),
            )
            found.append(suspect)
    return sorted(found, key=lambda suspect: (-suspect.margin, suspect.image))


def held_out_probabilities(features: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Features (N, D), labels (N,) of 0..K-1 -> probabilities (N, K) by logistic regression, its fold held out."""
    fold = _folds(labels, seed)
    probabilities = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float64)
    for number in range(FOLDS):
        held_out = fold == number
        classifier = linear.fit(features[~held_out], labels[~held_out], c=0.01)
        values = classifier.pipeline.predict_proba(features[held_out].double().numpy())
        columns = torch.from_numpy(classifier.pipeline.classes_).long()
        part = torch.zeros(int(held_out.sum()), probabilities.shape[1], dtype=torch.float64)
        part[:, columns] = torch.from_numpy(values)
        probabilities[held_out] = part
    return probabilities


def _folds(labels: Tensor, seed: int) -> Tensor:
    """The fold of each image (N,): every class is spread evenly over all."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[by_class] = torch.arange(len(labels)) % FOLDS
    return fold


def confident_disagreements(probabilities: Tensor, labels: Tensor) -> dict[int, int]:
    """Probabilities (N, K), labels (N,) -> {image: other class} where confident learning counts it as that class."""
    own = probabilities.gather(1, labels[:, None])[:, 0]
    sums = torch.zeros(probabilities.shape[1], dtype=own.dtype).index_add_(0, labels, own)
    usual = sums / labels.bincount(minlength=probabilities.shape[1]).clamp(min=1)
    confident = probabilities.where(probabilities >= usual, -1.0)
    value, proposed = confident.max(1)
    disagree = (value >= 0) & (proposed != labels)
    return {row: int(proposed[row]) for row in disagree.nonzero()[:, 0].tolist()}


def neighbours_agreeing(features: Tensor, labels: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Features (N, D), labels (N,) -> the share of each image's k nearest other images that have its label, (N,)."""
    k = min(k, len(features) - 1)
    _, indices = search(features, features, k + 1)
    others = indices != torch.arange(len(features))[:, None]
    # An image of which there are copies need not be its own first neighbour
    others &= others.cumsum(1) <= k
    return ((labels[indices] == labels[:, None]) & others).sum(1) / k
