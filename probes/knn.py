"""Weighted k-nearest-neighbour accuracy of frozen features.

Wu et al. 2018 (arXiv 1805.01978), section 3.4, with the settings of Caron et al. 2021 (arXiv 2104.14294): features on
the unit sphere, inner product, each of the k nearest training images votes for its class with weight exp(sim / T).
n test images, m training images, D width.
"""

import importlib.util
import sys
from collections.abc import Sequence

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

    Top-5 means the best min(5, k, classes). A k above m becomes m (see `usable`). ValueError on labels that do not
    fit, on features that are not finite, and on a k or temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"k-NN temperature must be positive, not {temperature}")
    ks = usable(k, len(train_features))
    train_labels, test_labels = train_labels.cpu().long(), test_labels.cpu().long()
    classes = _classes(train_labels, test_labels, classes)
    _check(train_features, train_labels, "training")
    _check(test_features, test_labels, "test")
    similarity, index = search(train_features, test_features, max(ks), backend)
    votes = train_labels[index]
    return {
        n: _accuracy(similarity[:, :n], votes[:, :n], test_labels, temperature, classes) for n in ks
    }


def usable(k: Sequence[int], train_images: int) -> list[int]:
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
    if choose(backend, train.device) == "faiss":
        return _search_faiss(train.cpu(), test.cpu(), k)
    return _search_torch(train, test, k)


def choose(backend: str, device: torch.device) -> str:
    """The backend behind "auto": faiss for features on the CPU where it is installed, torch everywhere else.

    Measured on 2 cores with 10,000 x 2,000 x 192, k = 20 to 200: faiss 0.06-0.35 s, torch 0.14-0.5 s. On macOS both
    bring their own OpenMP runtime and may kill the process (faiss-wheels#73), so faiss is used there on request only.
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
    return "faiss" if installed and device.type == "cpu" and sys.platform != "darwin" else "torch"


def votes(similarity: Tensor, neighbours: Tensor, temperature: float, classes: int) -> Tensor:
    """Similarities and neighbours' labels, both (n, k) -> scores (n, classes), each row scaled by a positive factor.

    The factor exp(-largest / T) changes no ranking and keeps a small temperature from overflowing.
    """
    weights = ((similarity - similarity[:, :1]).double() / temperature).exp()
    return weights.new_zeros(len(weights), classes).scatter_add_(1, neighbours, weights)


def _accuracy(
    similarity: Tensor, neighbours: Tensor, labels: Tensor, temperature: float, classes: int
):
    """Top-1 and top-5 in percent."""
    top = min(5, similarity.shape[1], classes)
    hits = torch.zeros(2, dtype=torch.long)
    for rows in torch.arange(len(labels)).split(_ROWS):
        scores = votes(similarity[rows], neighbours[rows], temperature, classes)
        rank = _rank(scores, labels[rows])
        hits += torch.stack([(rank < 1).sum(), (rank < top).sum()])
    top1, top5 = (100 * hits.double() / len(labels)).tolist()
    return top1, top5


def _rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Place (n,) of the true class, 0 the best. Among equals (classes without a vote, too) the lower is first."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def _search_faiss(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train.numpy())
    similarity, neighbours = index.search(test.numpy(), k)
    return torch.from_numpy(similarity), torch.from_numpy(neighbours)


def _search_torch(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 similarities would pick other neighbours
    try:
        with torch.autocast(train.device.type, enabled=False):
            chunks = test.split(max(1, _SIMILARITIES // len(train)))
            found = [tuple(part.cpu() for part in (chunk @ train.T).topk(k)) for chunk in chunks]
    finally:
        torch.set_float32_matmul_precision(precision)
    similarity, neighbours = zip(*found, strict=True)
    return torch.cat(similarity), torch.cat(neighbours)


def _classes(train_labels: Tensor, test_labels: Tensor, classes: int | None) -> int:
    if not len(train_labels) or not len(test_labels):
        raise ValueError("k-NN needs at least one training and one test image")
    labels = torch.cat([train_labels, test_labels])
    classes = int(labels.max()) + 1 if classes is None else classes
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"k-NN labels must lie in 0..{classes - 1}; found {labels.min()} to {labels.max()}"
        )
    return classes


def _check(features: Tensor, labels: Tensor, which: str) -> None:
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} {which} features for {len(labels)} labels")
    if not features.isfinite().all():
        raise ValueError(
            f"the {which} features are not finite: the network's weights are damaged or it has diverged"
        )
