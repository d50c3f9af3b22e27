"""The embedded set: deterministic, balanced, disjoint splits, and hard for raw pixels."""

import hashlib

import pytest
import torch

from multicrop import registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.datasets import shapes
from multicrop.registry import source


@pytest.fixture(autouse=True)
def drawn_shapes():
    """Here they are drawn anew, by whatever asks for them."""


@pytest.fixture(scope="module")
def sets():
    return shapes.load("nowhere", "train", train_images=1200), shapes.load(
        "nowhere", "test", test_images=300
    )


def test_size_type_and_classes(sets):
    train, test = sets
    assert train.pixels.shape == (1200, 3, 32, 32) and train.pixels.dtype == torch.uint8
    assert len(test) == 300 and test.labels.dtype == torch.int64
    assert len(train.classes) == len(set(train.classes)) == 10
    assert train.labels[:1000].bincount().tolist() == [100] * 10


def test_default_and_other_sizes():
    assert shapes.load("", "test").pixels.shape == (1000, 3, 32, 32)
    assert shapes.load("", "test", test_images=3, image_size=48).pixels.shape == (3, 3, 48, 48)


def test_seed_decides_everything():
    first, again, other = (
        shapes.load("", "train", seed=seed, train_images=20) for seed in (3, 3, 4)
    )
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, other.pixels)


def test_more_images_leave_the_first_ones_alone(sets):
    few = shapes.load("", "train", train_images=700)
    assert torch.equal(few.pixels, sets[0].pixels[:700]) and torch.equal(
        few.labels, sets[0].labels[:700]
    )


def test_no_test_image_is_a_training_image(sets):
    train, test = ({image.numpy().tobytes() for image in part.pixels} for part in sets)
    assert len(train) == 1200 and len(test) == 300 and not train & test


@pytest.mark.parametrize("version", shapes.VERSIONS)
def test_published_statistics_are_the_measured_ones(version):
    images = shapes.load("", "train", train_images=1200, version=version)
    unit = images.pixels.double() / 255
    mean, std = (torch.tensor(values).double() for values in (images.mean, images.std))
    torch.testing.assert_close(unit.mean((0, 2, 3)), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3)), std, atol=0.01, rtol=0)


def test_the_first_version_stays_as_it_was():
    images = shapes.load("", "train", train_images=600, **source("shapes_1").variant)
    digest = hashlib.sha256(images.pixels.numpy().tobytes()).hexdigest()
    assert digest.startswith("19060e1b41660a13")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "resnet8", "cct_2_3x2_32"])
def test_untrained_networks_of_every_kind_are_poor_neighbours(sets, arch):
    train, test = sets
    torch.manual_seed(0)
    sizes = {
        "patch_size": 4,
        "embed_dim": 64,
        "num_layers": 4,
        "num_heads": 4,
        "stem": "conv",
        "pool": "mean",
    }
    network = registry.backbone(arch, 32, **(sizes if arch == "vit" else {})).eval()
    transform = EvalTransform(32, train.mean, train.std)
    with torch.no_grad():
        known, asked = (network(transform(part.pixels)) for part in sets)
    accuracy = nearest_neighbours(known, train.labels, asked, test.labels)
    assert accuracy < 0.5


def test_mean_colour_says_little_of_the_class(sets):
    """The class whose mean colour is nearest is right about as often as chance, one in ten."""
    (train, test), mean = sets, lambda part: part.pixels.float().mean((2, 3))
    classes = torch.stack([mean(train)[train.labels == label].mean(0) for label in range(10)])
    accuracy = (torch.cdist(mean(test), classes).argmin(1) == test.labels).float().mean()
    assert accuracy < 0.2


def test_raw_pixels_are_poor_neighbours(sets):
    train, test = sets
    known, asked = (part.pixels.float().flatten(1) - 128 for part in sets)
    assert 0.05 < nearest_neighbours(known, train.labels, asked, test.labels) < 0.25


def nearest_neighbours(known, labels, asked, truth):
    """The share of `asked` whose label is the most frequent one of its 20 neighbours by cosine."""
    known, asked = (torch.nn.functional.normalize(part, dim=1) for part in (known, asked))
    nearest = labels[(asked @ known.T).topk(20).indices]
    return (nearest.mode(1).values == truth).float().mean().item()


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_outlines_fill_a_fair_part_of_their_cell_and_fit(name):
    axis = (torch.arange(300).numpy() + 0.5) / 300 * 2.4 - 1.2
    x, y = axis[None, None, :].astype("float32"), axis[None, :, None].astype("float32")
    inside = shapes.OUTLINES[name](x + 0 * y, y + 0 * x)[0] < 0
    assert 0.8 < inside.sum() * (2.4 / 300) ** 2 < 2.4
    assert ((x**2 + y**2)[0][inside] ** 0.5).max() < 1.12


@pytest.mark.parametrize("options", [{"split": "val"}, {"split": "train", "train_images": 0}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError):
        shapes.load("", **options)
