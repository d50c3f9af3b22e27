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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "faiss", "torch")
# Held at once by the torch search: 64 MiB, on CUDA with their keys up to six times that
_SIMILARITIES = 2**24
_BLOCK = 2**16  # training images that the torch search compares with at once
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
    classes = count_classes(train_labels, test_labels, classes)
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
    classes = count_classes(train_labels, test_labels, classes)
    check_features(train_features, train_labels, test_features, test_labels)
    similarity, index = search(train_features, test_features, max(ks), backend)
    return neighbour_places(similarity, train_labels[index], test_labels, ks, temperature, classes)


def neighbour_places(
    similarity: Tensor,
    votes: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    temperature: float,
    classes: int,
) -> dict[int, Tensor]:
    """Of each test image's neighbours the similarities and labels (n, max(ks)) -> {k: the place of its class (n,)}."""
    return {k: _places(similarity[:, :k], votes[:, :k], labels, temperature, classes) for k in ks}


def usable_ks(k: Sequence[int], train_images: int) -> list[int]:
    """The k that a training set of this size allows: sorted, each at most the number of its images, no doubles."""
    if not k or min(k) < 1:
        raise ValueError(f"k-NN needs at least one k, each 1 or more, not {list(k)}")
    return sorted({min(n, train_images) for n in k})


Neighbours = tuple[Tensor, Tensor]
"""Cosine similarities (n, k), largest first, and indices (n, k); of equals the lower index comes first. On the CPU."""


def search(
    train_features: Tensor, test_features: Tensor, k: int, backend: str = "auto"
) -> Neighbours:
    """The k training images (m, D) that are most similar to each test image (n, D)."""
    return Index(train_features, backend).nearest(test_features, k)


def merge(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """The k nearest of all, from those of parts of the training images, which are in the order of their indices.

    Where each part has its k nearest, or all that it has, these are those of a search in all of them.
    """
    similarity = torch.cat([similarity for similarity, _ in parts], dim=1)
    index = torch.cat([index for _, index in parts], dim=1)
    similarity, order = similarity.sort(dim=1, descending=True, stable=True)
    return similarity[:, :k], index.gather(1, order[:, :k])


class Index:
    """Training features (m, D), normalised once, in which neighbours are searched as often as is asked."""

    def __init__(self, train_features: Tensor, backend: str = "auto"):
        features = train_features.detach().float()
        self._faiss = None
        if choose_backend(backend, features.device) == "faiss" and len(features):
            self._faiss, self._unit = _faiss_index(features.cpu())
        else:
            self._unit = F.normalize(features, dim=1)

    def __len__(self) -> int:
        return len(self._unit)

    def nearest(self, test_features: Tensor, k: int) -> Neighbours:
        """The min(k, m) most similar of them to each test image (n, D)."""
        k = min(k, len(self))
        test = F.normalize(test_features.detach().float(), dim=1).to(self._unit.device)
        if self._faiss is not None:
            return _search_faiss(self._faiss, self._unit, test, k)
        return _search_torch(self._unit, test, k)


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


def _faiss_index(features: Tensor) -> tuple[Any, Tensor]:
    """The index of features (m, D), and these as they lie in it, normalised there: so there is one copy of them."""
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features.contiguous().numpy())
    stored = torch.from_numpy(faiss.rev_swig_ptr(index.get_xb(), features.numel()))
    unit = stored.view(features.shape)
    for part in unit.split(_BLOCK):
        part.copy_(F.normalize(part, dim=1))
    return index, unit


def _search_faiss(index: Any, train: Tensor, test: Tensor, k: int) -> Neighbours:
    """faiss takes any of several equals at the end of the k: of such rows torch searches the neighbours."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    similarity, indices = map(torch.from_numpy, index.search(test.numpy(), min(k + 1, len(train))))
    tied = _cut_ties(similarity, k)
    similarity, indices = _sorted(similarity[:, :k], indices[:, :k])
    if tied.any():
        similarity[tied], indices[tied] = _search_torch(train, test[tied], k)
    return similarity, indices


def _search_torch(train: Tensor, test: Tensor, k: int) -> Neighbours:
    """A part of the test images at a time, and of these a block of the training images."""
    found = []
    rows = max(1, _SIMILARITIES // max(1, min(len(train), _BLOCK)))
    with _full_precision(), torch.autocast(train.device.type, enabled=False):
        for part in test.split(rows):
            best: list[Neighbours] = []
            for start in range(0, max(1, len(train)), _BLOCK):
                block = train[start : start + _BLOCK]
                similarity, index = _largest(part @ block.T, min(k, len(block)))
                best = [merge([*best, (similarity, index + start)], k)]
            found.append(best[0])
    similarities, indices = zip(*found, strict=True)
    return _on_cpu(torch.cat(similarities), torch.cat(indices))


def _on_cpu(similarity: Tensor, index: Tensor) -> Neighbours:
    """From a device in one copy, for which the CPU waits."""
    if similarity.device.type == "cpu":
        return similarity, index
    bits, index = _packed(similarity, index).cpu()
    return bits.view(torch.float32), index.long()


def _packed(similarity: Tensor, index: Tensor) -> Tensor:
    """float32 and int64 (n, k) -> int32 (2, n, k), the similarities by their bits."""
    return torch.stack((similarity.view(torch.int32), index.int()))


def _largest(similarity: Tensor, k: int) -> Neighbours:
    """The k largest of each row (n, m) and where they are, of equals the first."""
    if similarity.device.type == "cuda":
        return _largest_unread(similarity, k)
    values, index = similarity.topk(min(k + 1, similarity.shape[1]))
    tied = _cut_ties(values, k)
    values, index = values[:, :k], index[:, :k]
    if tied.any():
        rows, least = similarity[tied], values[tied, -1:]
        above, equal = rows > least, rows == least
        places_left = k - above.sum(1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= places_left))
        index[tied] = chosen.nonzero()[:, 1].view(-1, k)
        values[tied] = rows[chosen].view(-1, k)
    return _sorted(values, index)


def _largest_unread(similarity: Tensor, k: int) -> Neighbours:
    """What `_largest` gives, of float32 (n, m), for a device: that there are ties is not read from it.

    Each number has a key of its own, an int64: its bits, as an int32 in the order of the numbers, above its distance
    from the row's end.
    """
    bits = (similarity + 0).view(torch.int32)  # -0 becomes 0, its equal
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    from_end = torch.arange(similarity.shape[1] - 1, -1, -1, device=similarity.device)
    index = ordered.long().mul_(2**32).add_(from_end).topk(k).indices
    return similarity.gather(1, index), index


def _cut_ties(values: Tensor, k: int) -> Tensor:
    """Of sorted rows of k + 1 values, or k where there are no more, a mask (n,): the last two are equal."""
    if values.shape[1] <= k or not k:
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    return values[:, k] == values[:, k - 1]


def _sorted(values: Tensor, index: Tensor) -> Neighbours:
    """Largest first, of equals the lower index first."""
    index, order = index.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, index.gather(1, order)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 products inside: TF32 similarities would pick other neighbours."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def count_classes(train_labels: Tensor, test_labels: Tensor, classes: int | None) -> int:
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


def check_features(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> None:
    """ValueError unless features (m, D) and (n, D) are finite, and labels (m,) and (n,) as many.

    Of a device one number is read where they are.
    """
    banks = {"training": (train_features, train_labels), "test": (test_features, test_labels)}
    for which, (features, labels) in banks.items():
        if len(features) != len(labels):
            raise ValueError(f"{len(features)} {which} features for {len(labels)} labels")
    train, test = train_features.isfinite().all(), test_features.isfinite().all()
    if train & test.to(train.device):
        return
    which = "test" if train else "training"
    raise ValueError(
        f"the {which} features are not finite: the network's weights are damaged or it has diverged"
    )
