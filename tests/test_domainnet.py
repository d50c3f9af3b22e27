"""DomainNet: each domain by its name, from the official lists or class folders; ImageNet's folders."""

import numpy as np
import pytest
from PIL import Image

from multicrop.registry import source

CLASSES = ("axe", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, "PNG")


@pytest.fixture
def listed(tmp_path):
    """Two domains as the official archives and lists have them."""
    for d, domain in enumerate(("clipart", "real")):
        lines = {"train": [], "test": []}
        for label, name in enumerate(CLASSES):
            for i in range(4):
                write(
                    tmp_path / domain / name / f"{domain}_{label}_{i}.jpg", 100 * d + 10 * label + i
                )
                lines["test" if i == 3 else "train"].append(
                    f"{domain}/{name}/{domain}_{label}_{i}.jpg {label}"
                )
        for split, rows in lines.items():
            (tmp_path / f"{domain}_{split}.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def load(root, split="train", name="clipart"):
    return source(name).load(root, split)


def values(images):
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", ["clipart", "domainnet:clipart", "DomainNet-Clipart"])
@pytest.mark.parametrize("place", [".", "clipart"])
def test_official_lists(listed, name, place):
    train, test = load(listed / place, name=name), load(listed / place, "test", name)
    assert (
        values(train) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
        and train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    )
    assert values(test) == [3, 13, 23] and test.labels.tolist() == [0, 1, 2]
    assert train.classes == test.classes == CLASSES


def test_each_domain_is_a_set_of_its_own(listed):
    assert values(load(listed, "test", "real")) == [103, 113, 123]
    for name in ("infograph", "painting", "quickdraw", "sketch"):
        with pytest.raises(
            FileNotFoundError, match=rf"there is no {name} of DomainNet in .*{name}_train\.txt"
        ):
            load(listed, name=name)


def test_the_test_list_alone_keeps_the_labels(listed):
    (listed / "clipart_train.txt").unlink()
    (listed / "clipart_test.txt").write_text("clipart/cat/clipart_2_3.jpg 2\n")
    found = load(listed, "test")
    assert found.labels.tolist() == [2] and found.classes == ("0", "1", "cat")


@pytest.mark.parametrize("place", [".", "sketch", "sketch/train"])
def test_class_folders(tmp_path, place):
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            write(tmp_path / "sketch" / split / name / "0.jpg", 10 * label + (split == "val"))
    assert values(load(tmp_path / place, name="sketch")) == [0, 10, 20]
    assert values(load(tmp_path / place, "test", "domainnet")) == [1, 11, 21]


def test_a_list_that_names_missing_images(listed):
    (listed / "clipart" / "bee" / "clipart_1_0.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"clipart_train\.txt names 1 images of 9 .*bee/clipart_1_0\.jpg"
    ) as caught:
        load(listed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["clipart/axe/a.jpg", "clipart/axe/a.jpg x", "a.jpg 0", "clipart/axe/a.jpg 99999"]
)
def test_a_damaged_list_names_the_line(listed, line):
    with open(listed / "clipart_train.txt", "a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"clipart_train\.txt, line 11: "):
        load(listed)
    (listed / "clipart_train.txt").write_text("")
    with pytest.raises(ValueError, match="names no images"):
        load(listed)


def test_which_domain_is_to_be_said(listed, tmp_path_factory):
    with pytest.raises(
        ValueError,
        match=r"holds clipart, real: say which domain of DomainNet, .* domainnet:clipart",
    ):
        load(listed, name="domainnet")
    with pytest.raises(ValueError, match="say which domain"):
        load(tmp_path_factory.mktemp("empty"), name="domainnet")


@pytest.mark.parametrize(
    "name, near", [("domainnet:clipar", "domainnet:clipart"), ("quickdrow", "quickdraw")]
)
def test_an_unknown_domain(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        source(name)


# ImageNet


@pytest.mark.parametrize("evaluation", ["val", "validation"])
@pytest.mark.parametrize("place", [".", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_folders(tmp_path, evaluation, place):
    for split, value in (("train", 0), (evaluation, 1)):
        for label, name in enumerate(("n02", "n01")):
            write(tmp_path / place / split / name / "0.JPEG", 10 * label + value)
    train, test = load(tmp_path, name="imagenet"), load(tmp_path / place / "train", "test", "IMNET")
    assert train.classes == ("n01", "n02") and values(train) == [10, 0] and values(test) == [11, 1]
    assert train.std == (0.229, 0.224, 0.225)


def test_imagenet_validation_images_without_folders(tmp_path):
    write(tmp_path / "train" / "n01" / "0.JPEG", 0)
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(ValueError, match="sort its images into val/<id>/ first"):
        load(tmp_path, "test", "imagenet")
    with pytest.raises(FileNotFoundError, match="there is no ImageNet in"):
        load(tmp_path / "val", name="imagenet")
