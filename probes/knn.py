"""Weighted k-nearest-neighbour accuracy of frozen features.

Wu et al. 2018 (arXiv 1805.01978), section 3.4, with the settings of Caron et al. 2021 (arXiv 2104.14294): features on
the unit sphere, inner product, each of the k nearest training images votes for its class with weight exp(sim / T).
n test images, m training images, D width.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "faiss", "torch")
_SIMILARITIES = 2**24  # held at once by the torch search: 64 MiB
_ROWS = 4096  # test images whose votes are counted at once


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    classes: int | None = None,
    backend: str = "auto",
) -> dict[int, tuple[float, float]]:
    """Features (m, D) and (n, D), labels (m,) and (n,) -> {k: (top-1, top-5)} in percent; features of any scale.

    Arguments and errors are those of `places`; top-5 means the best min(5, k, classes).
    """
    ranking = places(
        train_features, train_labels, test_features, test_labels, k, temperature, classes, backend
    )
    classes = _count_classes(train_labels, test_labels, classes)
    return {n: top_accuracies(place, n, classes) for n, place in ranking.items()}


def top_accuracies(place: Tensor, k: int, classes: int) -> tuple[float, float]:
    """Places (n,) of the true classes -> top-1 and top-5 in percent; the latter means the best min(5, k, classes)."""
    first = int((place < 1).sum())
    among_five = int((place < min(5, k, classes)).sum())
    return 100 * first / len(place), 100 * among_five / len(place)


def places(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    classes: int | None = None,
    backend: str = "auto",
) -> dict[int, Tensor]:
    """Features (m, D) and (n, D), labels (m,) and (n,) -> {k: the place of each test image's class (n,), 0 the best}.

    A k above m becomes m (see `usable_ks`). ValueError on labels that do not fit, on features that are not finite, and
    on a k or temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"k-NN temperature must be positive, not {temperature}")
    ks = usable_ks(k, len(train_features))
    train_labels = train_labels.cpu().long()
    test_labels = test_labels.cpu().long()
    classes = _count_classes(train_labels, test_labels, classes)
    _check(train_features, train_labels, "training")
    _check(test_features, test_labels, "test")
    similarity, index = search(train_features, test_features, max(ks), backend)
    found = {}
    for n in ks:
        votes = train_labels[index[:, :n]]
        found[n] = _places(similarity[:, :n], votes, test_labels, temperature, classes)
    return found


def usable_ks(k: Sequence[int], train_images: int) -> list[int]:
    """The k that a training set of this size allows: sorted, each at most the number of its images, no doubles."""
    if not k or min(k) < 1:
        raise ValueError(f"k-NN needs at least one k, each 1 or more, not {list(k)}")
    return sorted({min(n, train_images) for n in k})


def search(
    train_features: Tensor, test_features: Tensor, k: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The k most similar training images: cosine similarities (n, k), largest first, and indices (n, k), on the CPU."""
    train = F.normalize(train_features.detach().float(), dim=1)
    test = F.normalize(test_features.detach().float(), dim=1)
    if choose_backend(backend, train.device) == "faiss":
        return _search_faiss(train.cpu(), test.cpu(), k)
    return _search_torch(train, test, k)


def choose_backend(backend: str, device: torch.device) -> str:
    """The backend behind "auto": faiss for features on the CPU where it is installed, torch everywhere else.

    Measured on 2 cores with 10,000 x 2,000 x 192, k = 20 to 200: faiss 0.06-0.35 s, torch 0.14-0.5 s. On macOS both
    bring their own OpenMP runtime and may kill the process (faiss-wheels#73), so faiss is used there on request only.
    A faiss that is installed but cannot be imported is said once, and torch searches.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no k-NN backend is called {backend!r}; known: {', '.join(BACKENDS)}")
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
        raise ValueError(
            "k-NN backend 'faiss' is not installed; pip install faiss-cpu, or use the backend 'torch'"
        )
    if backend != "auto":
        return backend
    if installed and device.type == "cpu" and sys.platform != "darwin" and _faiss_imports():
        return "faiss"
    return "torch"


@cache
def _faiss_imports() -> bool:
    """Whether an installed faiss can be imported; its binary may be for another numpy or processor."""
    try:
        importlib.import_module("faiss")
    except Exception as error:
        print(f"warning: k-NN without faiss, which cannot be imported: {error}", file=sys.stderr)
        return False
    return True


def class_scores(similarity: Tensor, votes: Tensor, temperature: float, classes: int) -> Tensor:
    """Similarities and neighbours' labels, both (n, k) -> scores (n, classes), each row scaled by a positive factor.

    The factor exp(-largest / T) changes no ranking and keeps a small temperature from overflowing.
    """
    below_largest = (similarity - similarity[:, :1]).double()
    weights = (below_largest / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    return scores.scatter_add_(1, votes, weights)


def _places(
    similarity: Tensor, votes: Tensor, labels: Tensor, temperature: float, classes: int
) -> Tensor:
    """Place (n,) of each label, a part of the images at a time."""
    parts = []
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = class_scores(similarity[rows], votes[rows], temperature, classes)
        parts.append(_rank(scores, labels[rows]))
    return torch.cat(parts)


def _rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Place (n,) of the true class, 0 the best. Among equals (classes without a vote, too) the lower is first."""
    label = labels[:, None]
    own = scores.gather(1, label)
    earlier = torch.arange(scores.shape[1]) < label
    ahead = (scores > own) | ((scores == own) & earlier)
    return ahead.sum(1)


def _search_faiss(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train.numpy())
    similarity, indices = index.search(test.numpy(), k)
    return torch.from_numpy(similarity), torch.from_numpy(indices)


def _search_torch(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarities, indices = [], []
    with _full_precision(), torch.autocast(train.device.type, enabled=False):
        for part in test.split(max(1, _SIMILARITIES // len(train))):
            similarity, index = (part @ train.T).topk(k)
            similarities.append(similarity.cpu())
            indices.append(index.cpu())
    return torch.cat(similarities), torch.cat(indices)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 products inside: TF32 similarities would pick other neighbours."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _count_classes(train_labels: Tensor, test_labels: Tensor, classes: int | None) -> int:
    """`classes`, or as many as the labels need. ValueError where there are no labels, or others than these."""
    if len(train_labels) == 0 or len(test_labels) == 0:
        raise ValueError("k-NN needs at least one training and one test image")
    labels = torch.cat([train_labels, test_labels])
    lowest, highest = int(labels.min()), int(labels.max())
    if classes is None:
        classes = highest + 1
    if lowest < 0 or highest >= classes:
        raise ValueError(f"k-NN labels must lie in 0..{classes - 1}; found {lowest} to {highest}")
    return classes


def _check(features: Tensor, labels: Tensor, which: str) -> None:
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} {which} features for {len(labels)} labels")
    if not features.isfinite().all():
        raise ValueError(
            f"the {which} features are not finite: the network's weights are damaged or it has diverged"
        )
