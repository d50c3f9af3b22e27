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
AGREEING = 0.1  # share of the neighbours that may have the label of an image that is doubted
LOWEST_ACCURACY = (
    0.5  # of the classifier on images that it has not seen, below which its doubts say nothing
)


class Suspect(NamedTuple):
    image: int
    label: int
    proposed: int
    """The class that it probably is."""
    margin: float
    """Probability of the proposed class minus that of the label."""
    agreeing: float
    """Share of its nearest neighbours that have its label."""


class Judged(NamedTuple):
    suspects: list[Suspect]
    """The most doubtful first."""
    accuracy: float
    """Share of the images, not seen by it, for which the classifier says their label."""


def suspect_labels(features: Tensor, labels: Tensor, seed: int = 0) -> Judged:
    """Features (N, D) and labels (N,) -> the images whose label is doubtful.

    Both must say so: the classifier by confident learning, and nearly all neighbours. Classes of fewer images than
    folds are not judged. ValueError where fewer than two classes are left, and where the features do not tell the
    classes apart.
    """
    labels = labels.cpu().long()
    features = features.detach().float().cpu()
    kept = labels.bincount() >= FOLDS
    judged = kept[labels].nonzero()[:, 0]
    if kept.sum() < 2:
        raise ValueError(f"labels are judged where two classes have {FOLDS} images or more")
    classes = kept.nonzero()[:, 0]
    consecutive = (kept.cumsum(0) - 1)[labels[judged]]
    probabilities = held_out_probabilities(features[judged], consecutive, seed)
    accuracy = (probabilities.argmax(1) == consecutive).double().mean().item()
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(
            f"a classifier on these features is right for {accuracy:.0%} of the images that it has not seen, so its "
            "doubts say nothing: give a trained --network"
        )
    agreeing = neighbours_agreeing(features[judged], consecutive)
    suspects = []
    for row, proposed in confident_disagreements(probabilities, consecutive).items():
        label = int(consecutive[row])
        if agreeing[row] <= AGREEING:
            margin = float(probabilities[row, proposed] - probabilities[row, label])
            names = int(classes[label]), int(classes[proposed])
            suspects.append(Suspect(int(judged[row]), *names, margin, float(agreeing[row])))
    suspects.sort(key=lambda suspect: (-suspect.margin, suspect.image))
    return Judged(suspects, accuracy)


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
