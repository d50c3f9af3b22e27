"""k-NN under several ranks: each keeps the features of its stretch of the training images, and no rank those of all.

The test features go round in blocks. Each rank finds the nearest in its stretch, and the rank whose test images they
are merges them: the same neighbours as in one process. n test images, m training images, D width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from multicrop.commands._features import Stretch
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.probes import knn as probe

HELD = 2**22  # neighbours that a rank receives at once: 48 MiB


class Ranking(NamedTuple):
    """On every rank."""

    places: dict[int, Tensor]
    """For each k the place of each test image's class (n,), 0 the best."""
    labels: Tensor
    """int64 (n,): the classes of the test images."""


def rank_classes(
    known: Stretch,
    asked: Stretch,
    train: ImageSet,
    test: ImageSet,
    k: Sequence[int],
    temperature: float = 0.07,
    backend: str = "auto",
) -> Ranking:
    """What `places` of probes/knn.py gives of training features `known` and test features `asked`. The same errors."""
    assert train.labels is not None and test.labels is not None
    classes, own_labels = len(train.classes), test.labels[asked.indices]
    if ranks.world_size() == 1:
        bank = known.values, train.labels[known.indices], asked.values, own_labels
        return Ranking(probe.places(*bank, k, temperature, classes, backend), own_labels)
    ks = probe.usable_ks(k, known.total)
    labels = ranks.gather(own_labels)
    own_train_labels = train.labels[known.indices]

    def check() -> None:
        probe.check_features(known.values, own_train_labels, asked.values, own_labels)
        if len(own_train_labels):
            probe.count_classes(own_train_labels, labels, classes)

    _on_every_rank(check)

    # Blocks of test features, of one rank after the other.
    index = probe.Index(known.values, backend)
    rows = max(1, HELD // (max(ks) * ranks.world_size()))
    own: dict[int, list[Tensor]] = {n: [torch.empty(0, dtype=torch.int64)] for n in ks}
    for owner, count in enumerate(ranks.gather_objects(len(own_labels))):
        for start in range(0, count, rows):
            # Its nearest of each rank's stretch, brought together.
            block = slice(start, start + rows)
            features = ranks.broadcast_object(partial(_block, asked.values, block), owner)
            similarity, row = index.nearest(features, max(ks))
            parts = ranks.gather_objects((similarity, known.indices[row]), to=owner)
            if owner != ranks.rank():
                continue
            # Votes.
            similarity, image = probe.merge(parts, max(ks))
            votes = train.labels[image], own_labels[block]
            ranking = probe.neighbour_places(similarity, *votes, ks, temperature, classes)
            for n, places in ranking.items():
                own[n].append(places)
    return Ranking({n: ranks.gather(torch.cat(places)) for n, places in own.items()}, labels)


def _block(values: Tensor, rows: slice) -> Tensor:
    """A copy: a view would be sent with all that it is a view of."""
    return values[rows].cpu().clone()


def _on_every_rank(check: Callable[[], object]) -> None:
    """ValueError on every rank where the check of one of them fails."""
    message = None
    try:
        check()
    except ValueError as error:
        message = str(error)
    messages = [each for each in ranks.gather_objects(message) if each is not None]
    if messages:
        raise ValueError(messages[0])
