"""probes/linear.py against scikit-learn used directly, and probes/pixels.py."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from multicrop.probes import linear
from multicrop.probes.linear import linear_probe
from multicrop.probes.pixels import RawPixels

CLASSES, WIDTH = 4, 6


def blobs(seed: int, per_class: int = 30, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, D) around one point per class, of unlike scales, and their labels (n,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    noise = spread * torch.randn(len(labels), WIDTH, generator=random)
    scales = torch.logspace(-2, 2, WIDTH)
    return (2 * torch.eye(CLASSES, WIDTH)[labels] + noise) * scales + 10, labels


def test_separable_features_give_100():
    assert linear_probe(*blobs(0, spread=0.05), *blobs(1, spread=0.05)) == 100


def test_shuffled_labels_are_near_chance():
    """In the mean of many shuffles: in each, a whole blob of test images is right or wrong together."""
    features, labels = blobs(0)
    random = torch.Generator().manual_seed(0)
    shuffled = [labels[torch.randperm(len(labels), generator=random)] for _ in range(20)]
    found = [linear_probe(features, order, *blobs(1)) for order in shuffled]
    assert sum(found) / len(found) == pytest.approx(100 / CLASSES, abs=8)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_accuracy_is_that_of_scikit_learn_used_directly(c):
    """In float64: in float32 a test image on the border may fall on either side."""
    (train, train_labels), (test, test_labels) = blobs(0), blobs(1)
    train, test = train.double(), test.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    direct = LogisticRegression(C=c, max_iter=1000)
    direct.fit(((train - mean) / deviation).numpy(), train_labels.numpy())
    expected = 100 * direct.score(((test - mean) / deviation).numpy(), test_labels.numpy())
    found = linear_probe(train, train_labels, test, test_labels, c)
    assert found == pytest.approx(expected) and 40 < found < 100


def test_only_training_statistics_standardise():
    """So each test image has the same answer alone as among the others."""
    train, (test, labels) = blobs(0), blobs(1, per_class=5)
    alone = [linear_probe(*train, test[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    assert linear_probe(*train, test, labels) == pytest.approx(sum(alone) / len(alone))


def test_a_feature_that_never_varies_does_no_harm():
    (train, labels), (test, test_labels) = blobs(0), blobs(1)
    train, test = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (train, test))
    assert linear_probe(train, labels, test, test_labels) == linear_probe(
        train[:, :-1], labels, test[:, :-1], test_labels
    )


def test_what_it_refuses():
    train, test = blobs(0), blobs(1)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        linear_probe(*train, *test, c=0)
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(train[0], torch.zeros_like(train[1]), *test)
    with pytest.raises(ValueError, match="not finite"):
        linear_probe(train[0] * float("nan"), train[1], *test)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(linear.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn") as error:
        linear_probe(*blobs(0), *blobs(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 16, 32])
def test_small_images_keep_every_pixel(size):
    images = torch.randn(2, 3, size, size)
    found = RawPixels(3, size)
    assert torch.equal(found(images), images.flatten(1)) and found.dim == 3 * size**2


@pytest.mark.parametrize(
    ("size", "block", "side"), [(33, 2, 17), (48, 2, 24), (64, 2, 32), (65, 3, 22), (224, 7, 32)]
)
def test_large_images_become_means_of_blocks(size, block, side):
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    pixels = RawPixels(3, size)
    found = pixels(images).view(2, 3, side, side)
    assert pixels.dim == 3 * side**2
    for row, column in ((0, 0), (1, side // 2), (side - 1, side - 1)):
        area = images[:, :, block * row :, block * column :][:, :, :block, :block]
        torch.testing.assert_close(found[:, :, row, column], area.mean((2, 3)))
