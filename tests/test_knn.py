"""probes/knn.py and probes/features.py against recorded numbers and a brute-force loop."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from multicrop.probes import knn as probe
from multicrop.probes.features import extract_features
from multicrop.probes.knn import knn

GOLDEN = np.load(Path(__file__).parent / "golden" / "two_stage_ssl" / "knn.npz")
KS, TEMPERATURES, BACKENDS = (1, 3, 10, 20, 100, 200), (0.07, 0.2), ("faiss", "torch")
CLASSES = int(GOLDEN["num_classes"])


def data_of(recorded, kind: str = "raw") -> tuple[torch.Tensor, ...]:
    names = (f"train_{kind}", "train_labels", f"test_{kind}", "test_labels")
    return tuple(torch.from_numpy(recorded[name]) for name in names)


DATA = data_of(GOLDEN)


@pytest.fixture(scope="module")
def recorded(recordings):
    with np.load(recordings / "two_stage_ssl" / "knn.npz") as file:
        return dict(file)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_accuracy_is_the_published_one(recorded, backend, temperature):
    """Of raw features and, in the full set, of normalised ones."""
    for kind in ("raw", "features") if "train_features" in recorded else ("raw",):
        options = {"k": KS, "temperature": temperature, "classes": CLASSES, "backend": backend}
        found = knn(*data_of(recorded, kind), **options)
        for k in KS:
            expected = [float(recorded[f"k{k}_T{temperature}_{name}"]) for name in ("top1", "top5")]
            assert found[k] == pytest.approx(expected, abs=1e-9), k


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_one_search_gives_the_scores_of_every_k_and_temperature(recorded, backend, temperature):
    train, labels, test, _ = data_of(recorded)
    similarity, index = probe.search(train, test, max(KS), backend)
    for k in KS:
        scores = probe.class_scores(similarity[:, :k], labels[index[:, :k]], temperature, CLASSES)
        scores *= (similarity[:, :1].double() / temperature).exp()
        expected = torch.from_numpy(recorded[f"k{k}_T{temperature}_scores"]).double()
        torch.testing.assert_close(scores, expected, rtol=2e-5, atol=1e-5 * expected.max().item())
        if (
            f"k{k}_T{temperature}_ranking" in recorded
        ):  # of which the copy here holds the first column
            ranking = torch.from_numpy(recorded[f"k{k}_T{temperature}_ranking"]).long()
            assert (
                scores.gather(1, ranking).diff().max() <= 1e-5 * expected.max()
            )  # classes without votes may tie
            best = ranking[:, 0].numpy()
        else:
            best = recorded[f"k{k}_T{temperature}_best"]
        assert (scores.argmax(1).numpy() == best).all()


def by_hand(train, train_labels, test, test_labels, k, temperature, classes):
    unit = lambda x: x / x.norm(dim=1, keepdim=True)  # noqa: E731
    hits = [0, 0]
    for image, label in zip(unit(test), test_labels.tolist(), strict=True):
        nearest = sorted(
            ((float(image @ other), j) for j, other in enumerate(unit(train))), reverse=True
        )[:k]
        scores = [0.0] * classes
        for similarity, j in nearest:
            scores[train_labels[j]] += np.exp(similarity / temperature)
        order = sorted(
            range(classes), key=lambda c: -scores[c]
        )  # stable: among equals the lower class first
        hits[0] += label in order[:1]
        hits[1] += label in order[: min(5, k, classes)]
    return tuple(100 * n / len(test) for n in hits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("test_images", "classes", "k"), [(1, 3, 4), (7, 2, 5), (13, 30, 40), (99, 12, 2)]
)
def test_any_size_agrees_with_a_loop(backend, test_images, classes, k):
    random = torch.Generator().manual_seed(test_images)
    train, test = (
        torch.randn(50, 6, generator=random),
        torch.randn(test_images, 6, generator=random),
    )
    labels = [torch.randint(classes, (n,), generator=random) for n in (50, test_images)]
    found = knn(
        train, labels[0], test, labels[1], k=[k], temperature=0.1, classes=classes, backend=backend
    )
    assert found[k] == pytest.approx(by_hand(train, labels[0], test, labels[1], k, 0.1, classes))


def test_torch_search_is_the_same_in_pieces(monkeypatch):
    whole = probe.search(DATA[0], DATA[2], 20, "torch")
    monkeypatch.setattr(probe, "_SIMILARITIES", 400 * 7)
    monkeypatch.setattr(probe, "_ROWS", 11)
    pieces = probe.search(DATA[0], DATA[2], 20, "torch")
    torch.testing.assert_close(pieces[0], whole[0])
    assert torch.equal(pieces[1], whole[1])
    assert knn(*DATA, k=[20], backend="torch")[20][0] == pytest.approx(
        float(GOLDEN["k20_T0.07_top1"])
    )


def test_torch_search_is_the_same_in_blocks_of_training_images(monkeypatch):
    whole = probe.search(DATA[0], DATA[2], 20, "torch")
    monkeypatch.setattr(probe, "_BLOCK", 13)
    blocks = probe.search(DATA[0], DATA[2], 20, "torch")
    torch.testing.assert_close(blocks[0], whole[0])
    assert torch.equal(blocks[1], whole[1])


def with_ties(images: int, seed: int) -> torch.Tensor:
    """Four of eight numbers are -1 or 1: similarities are multiples of a quarter, exact, and most occur often."""
    random = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (images, 4), generator=random) * 2.0 - 1
    places = torch.rand(images, 8, generator=random).argsort(1)[:, :4]
    return torch.zeros(images, 8).scatter_(1, places, signs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 20, 200, 301])
def test_of_equally_similar_images_the_first_are_neighbours(backend, k):
    train, test = with_ties(301, 0), with_ties(40, 1)
    similarity, index = probe.search(train, test, k, backend)
    expected = (test @ train.T / 4).sort(dim=1, descending=True, stable=True)
    assert torch.equal(similarity, expected.values[:, :k])
    assert torch.equal(index, expected.indices[:, :k])


def alike(images: int, seed: int) -> torch.Tensor:
    """Rows of numbers of both signs, zeros of both signs and ties among them."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.randn(7, images, generator=random)
    numbers[:, ::3] = numbers[:, 1:2]
    numbers[:4, ::5] = -0.0
    numbers[:4, 2::5] = 0.0
    return numbers


@pytest.mark.parametrize(
    "similarity", [with_ties(40, 1) @ with_ties(301, 0).T / 4, alike(301, 2), alike(301, 3) - 9]
)
@pytest.mark.parametrize("k", [1, 20, 200, 301])
def test_what_a_gpu_is_asked_for_is_what_a_cpu_finds(similarity, k):
    """Without a look at the ties."""
    values, index = probe._largest_unread(similarity, k)
    expected = similarity.sort(dim=1, descending=True, stable=True)
    assert torch.equal(index, expected.indices[:, :k])
    assert torch.equal(values.view(torch.int32), expected.values[:, :k].view(torch.int32))
    assert all(map(torch.equal, probe._largest(similarity, k), (values, index)))


def test_neighbours_come_from_a_device_as_they_are():
    similarity, index = probe.search(with_ties(301, 0), with_ties(40, 1), 20, "torch")
    bits, places = probe._packed(similarity, index)
    assert torch.equal(bits.view(torch.float32), similarity) and torch.equal(places.long(), index)


@pytest.mark.cuda
@pytest.mark.parametrize("k", [1, 20, 301])
def test_a_gpu_finds_the_neighbours_that_a_cpu_finds(monkeypatch, k):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    train, test = with_ties(301, 0), with_ties(40, 1)
    monkeypatch.setattr(probe, "_BLOCK", 100)
    found = probe.search(train.cuda(), test.cuda(), k)
    assert all(map(torch.equal, found, probe.search(train, test, k)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("k", [5, 200])
def test_neighbours_in_parts_of_the_bank_are_those_in_the_whole(backend, parts, k):
    """Parts with fewer than k images, and one without any, included."""
    train, test = with_ties(301, 0), with_ties(40, 1)
    whole = probe.search(train, test, k, backend)
    cuts = [301 * part // parts for part in range(parts + 1)]
    cuts.insert(1, cuts[1])
    found = []
    for start, stop in itertools.pairwise(cuts):
        similarity, index = probe.Index(train[start:stop], backend).nearest(test, k)
        found.append((similarity, index + start))
    assert all(map(torch.equal, probe.merge(found, k), whole))


def test_k_is_limited_by_the_training_set():
    assert probe.usable_ks((10, 500, 400, 1), 400) == [1, 10, 400]
    assert list(knn(*DATA, k=(10, 500), classes=CLASSES)) == [10, 400]


def test_identical_features_count_votes_and_score_chance():
    """Ties go to the lower class: a network that gives every image one feature must not look good."""
    labels = torch.arange(10)
    same = torch.ones(10, 4)
    for backend in BACKENDS:
        assert knn(same, labels, same, labels, k=[10], backend=backend)[10] == (10.0, 50.0)


def test_a_small_temperature_does_not_overflow():
    assert knn(*DATA, k=[20], temperature=1e-4)[20][0] == knn(*DATA, k=[1])[1][0]


def test_autocast_around_the_search_changes_nothing():
    with torch.autocast("cpu", torch.bfloat16):
        inside = knn(*DATA, k=[20], backend="torch")
    assert inside == knn(*DATA, k=[20], backend="torch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [0]}, "each 1 or more"),
        ({"k": []}, "at least one k"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"classes": 3}, r"must lie in 0\.\.2"),
        ({"backend": "annoy"}, "known: auto, faiss, torch"),
        ({"test_labels": DATA[3][:-1]}, "230 test features for 229 labels"),
        ({"train_features": DATA[0] * float("nan")}, "training features are not finite"),
        ({"test_features": DATA[2] * float("inf")}, "test features are not finite"),
        (
            {"test_features": DATA[2][:0], "test_labels": DATA[3][:0]},
            "at least one training and one test image",
        ),
    ],
)
def test_wrong_input_is_named(change, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    with pytest.raises(ValueError, match=message):
        knn(**{**dict(zip(names, DATA, strict=True)), **change})


def test_without_faiss_auto_takes_torch(monkeypatch):
    cpu = torch.device("cpu")
    assert probe.choose_backend("auto", torch.device("cuda")) == "torch"
    monkeypatch.setattr(probe.sys, "platform", "darwin")
    assert probe.choose_backend("auto", cpu) == "torch"
    monkeypatch.setattr(probe.sys, "platform", "linux")
    assert probe.choose_backend("auto", cpu) == "faiss"
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None)
    assert probe.choose_backend("auto", cpu) == "torch"
    with pytest.raises(ValueError, match="pip install faiss-cpu"):
        probe.choose_backend("faiss", cpu)


def test_a_faiss_that_cannot_be_imported_is_done_without(monkeypatch, capsys):
    def broken(name):
        raise ImportError("numpy.core.multiarray failed to import")

    probe._faiss_imports.cache_clear()
    monkeypatch.setattr(probe.sys, "platform", "linux")
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(probe.importlib, "import_module", broken)
    found = [probe.choose_backend("auto", torch.device("cpu")) for _ in range(2)]
    probe._faiss_imports.cache_clear()
    assert found == ["torch", "torch"]
    assert capsys.readouterr().err.count("warning: k-NN without faiss") == 1


@pytest.mark.slow
def test_faiss_and_torch_threads_take_turns():
    """Both libraries bring an OpenMP runtime; in one process they must neither hang nor crash."""
    code = (
        "import torch\n"
        "from multicrop.probes.knn import knn\n"
        "layer = torch.nn.Linear(192, 192)\n"
        "x, y = torch.randn(4000, 192), torch.randint(10, (4000,))\n"
        "for _ in range(3):\n"
        "    layer(x).square().mean().backward()\n"
        "    print(knn(x, y, x[:1000], y[:1000], k=[20], backend='faiss')[20][0])\n"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1


class Backbone(nn.Module):
    dim = 5

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)
        )

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("kind", ["tensor", "memory map"])
def test_features_come_from_evaluation_mode_and_leave_the_modes_alone(kind, tmp_path):
    images = torch.randint(256, (11, 3, 2, 2), dtype=torch.uint8)
    network = Backbone()
    network.layer[2].eval()  # a frozen batch norm inside a network in training
    before = [module.training for module in network.modules()]
    stored = images
    if kind == "memory map":
        np.save(tmp_path / "x.npy", images.numpy())
        stored = np.load(tmp_path / "x.npy", mmap_mode="c")
        stored = torch.from_numpy(stored)
    found = extract_features(network, stored, lambda x: x.float() / 255, batch_size=4)
    assert [module.training for module in network.modules()] == before
    assert found.dtype == torch.float32 and not found.requires_grad
    network.eval()
    torch.testing.assert_close(found, network(images.float() / 255).detach())
    chosen = torch.tensor([9, 0, 3, 3, 10])
    torch.testing.assert_close(
        extract_features(network, stored, lambda x: x / 255, batch_size=2, indices=chosen),
        found[chosen],
    )


def test_features_under_autocast_are_float32_and_modes_survive_an_error():
    network = Backbone().train()
    images = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
    assert (
        extract_features(network, images, lambda x: x.float(), autocast=torch.bfloat16).dtype
        == torch.float32
    )
    assert extract_features(network, images[:0], lambda x: x.float()).shape == (0, 5)
    with pytest.raises(RuntimeError):
        extract_features(network, images, lambda x: x)  # uint8 into a linear layer
    assert network.training and network.layer[1].training
