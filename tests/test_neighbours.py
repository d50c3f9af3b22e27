"""k-NN whose training features are spread over ranks: the ranks as threads, and as two processes."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, launch
from test_knn import with_ties

from multicrop.commands import _neighbours
from multicrop.commands._features import Stretch
from multicrop.probes import knn as probe

TRAIN, TEST, CLASSES, KS = 301, 40, 4, (1, 20, 200)


def images(count: int, seed: int, first: int) -> SimpleNamespace:
    """What is read of an ImageSet; the first images could not be read."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count + first,), generator=random)
    return SimpleNamespace(labels=labels, classes=tuple("abcd"))


def stretch(features: torch.Tensor, rank: int, world: int, first: int) -> Stretch:
    own = slice(len(features) * rank // world, len(features) * (rank + 1) // world)
    return Stretch(features[own], torch.arange(len(features))[own] + first, len(features))


def rank_classes(rank: int, world: int, train: torch.Tensor, test: torch.Tensor):
    return _neighbours.rank_classes(
        stretch(train, rank, world, 3), stretch(test, rank, world, 2),
        images(len(train), 0, 3), images(len(test), 1, 2), KS,
    )  # fmt: skip


class Threads:
    """As engine/ranks.py, of so many threads. `largest` is the most rows of features that were sent at once."""

    def __init__(self, world: int):
        self.world, self.largest = world, 0
        self._barrier, self._box = threading.Barrier(world, timeout=20), {}
        self._own = threading.local()

    def rank(self) -> int:
        return self._own.rank

    def world_size(self) -> int:
        return self.world

    def gather_objects(self, value, to=None):
        self._box[self.rank()] = value
        self._barrier.wait()
        values = [self._box[rank] for rank in range(self.world)]
        self._barrier.wait()
        return values if to in (None, self.rank()) else []

    def gather(self, value):
        return torch.cat(self.gather_objects(value))

    def broadcast_object(self, make, source=0):
        made = self.gather_objects(make() if self.rank() == source else None)[source]
        self.largest = max(self.largest, len(made))
        return made

    def run(self, work):
        """What the work of each rank gives, or the error that ends it."""
        results = [None] * self.world

        def one(rank):
            self._own.rank = rank
            try:
                results[rank] = work(rank)
            except ValueError as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def whole(train, test):
    labels = images(len(train), 0, 3).labels[3:], images(len(test), 1, 2).labels[2:]
    return probe.places(train, labels[0], test, labels[1], KS, classes=CLASSES)


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("counts", [(TRAIN, TEST), (TRAIN, 2), (5, TEST)])
def test_ranks_together_find_what_one_finds(monkeypatch, world, counts):
    """With ties; also where some ranks have no image."""
    train, test = with_ties(counts[0], 0), with_ties(counts[1], 1)
    ranks = Threads(world)
    monkeypatch.setattr(_neighbours, "ranks", ranks)
    monkeypatch.setattr(_neighbours, "HELD", 7 * max(KS) * world)
    expected = whole(train, test)
    for ranking in ranks.run(lambda rank: rank_classes(rank, world, train, test)):
        assert list(ranking.places) == list(expected)
        for k, place in expected.items():
            assert torch.equal(ranking.places[k], place)
        assert torch.equal(ranking.labels, images(counts[1], 1, 2).labels[2:])
    assert ranks.largest <= 7 * max(KS) // min(max(KS), counts[0])


def test_features_of_one_rank_that_are_not_finite_are_an_error_of_all(monkeypatch):
    train, ranks = with_ties(TRAIN, 0), Threads(3)
    train[-1] = float("nan")
    monkeypatch.setattr(_neighbours, "ranks", ranks)
    for error in ranks.run(lambda rank: rank_classes(rank, 3, train, with_ties(TEST, 1))):
        assert "the training features are not finite" in str(error)


SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {tests!r}]
from multicrop.commands._features import gathered
from multicrop.engine import ranks
from test_neighbours import *
ranks.start("cpu")
train, test = with_ties(TRAIN, 0), with_ties(TEST, 1)
ranking = rank_classes(ranks.rank(), 2, train, test)
on_one = gathered(stretch(train, ranks.rank(), 2, 0), to=0)
assert len(on_one.values) == len(on_one.indices) == (TRAIN if ranks.rank() == 0 else 0)
if ranks.rank() == 0:
    assert torch.equal(on_one.values, train)
    print(json.dumps({{k: place.tolist() for k, place in ranking.places.items()}}))
ranks.stop()
"""


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "neighbours.py"
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests")))
    done = launch(str(script), ranks=2)
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout.strip().splitlines()[-1])
    expected = whole(with_ties(TRAIN, 0), with_ties(TEST, 1))
    assert places == {str(k): place.tolist() for k, place in expected.items()}
