"""Chaoyang: images and labels from its JSON lists, and lists that are missing, damaged or name missing images."""

import json

import numpy as np
import pytest
from PIL import Image

from multicrop.registry import source


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def slides(tmp_path):
    root = tmp_path / "chaoyang"
    for split, labels in (("train", [3, 0, 1, 2, 0]), ("test", [2, 3])):
        (root / split).mkdir(parents=True)
        rows = []
        for i, label in enumerate(labels):
            Image.fromarray(np.full((8, 8, 3), 10 * label + i, np.uint8)).save(
                root / split / f"{i}.JPG", "PNG"
            )
            rows.append({"name": f"{split}/{i}.JPG", "label": label})
        (root / f"{split}.json").write_text(json.dumps(rows))
    return root


def load(root, split="train"):
    return source("chaoyang").load(root, split)


@pytest.mark.parametrize("place", [".", "..", "train"])
def test_lists(slides, place):
    train, test = load(slides / place), load(slides / place, "test")
    assert train.labels.tolist() == [3, 0, 1, 2, 0] and train.pixels[:, 0, 0, 0].tolist() == [
        30,
        1,
        12,
        23,
        4,
    ]
    assert test.labels.tolist() == [2, 3] and test.classes == train.classes == (
        "normal", "serrated", "adenocarcinoma", "adenoma",
    )  # fmt: skip


def test_a_list_is_missing(slides):
    (slides / "test.json").unlink()
    assert len(load(slides)) == 5
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*test\.json, the list of Chaoyang's test images"
    ):
        load(slides, "test")


@pytest.mark.parametrize(
    "content",
    ["", "[", "{}", "[]", "[1]", '[{"name": "a"}]', '[{"name": 1, "label": 0}]', '[{"name": "a", "label": 4}]',
     '[{"name": "a", "label": true}]'],
)  # fmt: skip
def test_a_damaged_list(slides, content):
    (slides / "train.json").write_text(content)
    with pytest.raises(ValueError, match=r"train\.json is not a list of") as caught:
        load(slides)
    assert "\n" not in str(caught.value)


def test_a_list_that_names_missing_images(slides):
    (slides / "train" / "2.JPG").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"train\.json names 1 images of 5 that are not in .* train/2\.JPG"
    ):
        load(slides)
