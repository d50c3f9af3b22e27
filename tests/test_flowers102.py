"""Flowers-102: the official lists, Kaggle's class folders in numerical order, and what can be missing."""

import shutil

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from multicrop.datasets._images import LoadOptions
from multicrop.registry import source

IMAGES = 24
LABELS = [1 + i % 3 for i in range(IMAGES)]  # of images 1, 2, ...
LISTS = {"trnid": [5, 2, 9], "valid": [3, 10], "tstid": [1, 4, 24, 6]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, "PNG")


def write_official(folder):
    for image in range(1, IMAGES + 1):
        write(folder / "jpg" / f"image_{image:05d}.jpg", image)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([LABELS])})
    scipy.io.savemat(
        folder / "setid.mat", {name: np.array([images]) for name, images in LISTS.items()}
    )


def write_kaggle(root):
    for split, each in (("train", 2), ("valid", 1)):
        for label in range(1, 13):
            for i in range(each):
                write(root / split / str(label) / f"image_{i}.jpg", 10 * label + i)
    write(root / "test" / "image_0.jpg", 0)  # without labels, as there


def load(root, split="train", name="flowers102", **options):
    return source(name).load(root, split, LoadOptions(**options))


def values(images):
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    "folder", [".", "flowers-102", "flowers"], ids=["itself", "torchvision's", "the published"]
)
def test_official_lists(tmp_path, folder):
    write_official(tmp_path / folder)
    train, test = load(tmp_path), load(tmp_path, "test")
    assert values(train) == [5, 2, 9, 3, 10] and train.labels.tolist() == [1, 1, 2, 2, 0]
    assert values(test) == [1, 4, 24, 6] and test.labels.tolist() == [0, 0, 2, 2]
    assert train.classes == ("1", "2", "3") and train.mean == (0.485, 0.456, 0.406)


def test_the_training_list_alone(tmp_path):
    write_official(tmp_path)
    assert values(load(tmp_path, name="flowers102:1020")) == [5, 2, 9]
    assert values(load(tmp_path, "test", "flowers102:1020")) == [1, 4, 24, 6]


@pytest.mark.parametrize("folder", [".", "flower_data"])
def test_kaggle_folders_in_numerical_order(tmp_path, folder):
    write_kaggle(tmp_path / folder)
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.classes == test.classes == tuple(str(label) for label in range(1, 13))
    assert values(train) == [
        v
        for label in sorted(map(str, range(1, 13)))
        for v in (10 * int(label), 10 * int(label) + 1)
    ]
    assert [v // 10 - 1 for v in values(train)] == train.labels.tolist()
    assert [v // 10 - 1 for v in values(test)] == test.labels.tolist() and len(test) == 12
    assert values(load(tmp_path / folder / "train")) == values(train)


def test_the_option_decides_where_both_are_there(tmp_path):
    write_official(tmp_path / "flowers-102")
    write_kaggle(tmp_path)
    assert len(load(tmp_path)) == len(load(tmp_path, name="flowers102:official")) == 5
    assert len(load(tmp_path, name="flowers102:kaggle")) == 24


@pytest.mark.parametrize(
    "name, looked",
    [
        ("flowers102", r"jpg/ with .* \(--download fetches them\) or train/<1\.\.102>/"),
        ("flowers102:kaggle", "looked for train/<1"),
        ("flowers102:official", "looked for jpg/ with imagelabels.mat and setid.mat"),
    ],
)
def test_nothing_there(tmp_path, name, looked):
    (tmp_path / "digits" / "train" / "0").mkdir(
        parents=True
    )  # ten classes of digits are not flowers
    for root in (tmp_path, tmp_path / "digits"):
        with pytest.raises(FileNotFoundError, match=looked):
            load(root, name=name)


def test_missing_images_are_counted_and_named(tmp_path):
    write_official(tmp_path)
    for image in (2, 3):
        (tmp_path / "jpg" / f"image_{image:05d}.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"setid\.mat names 2 images of 5 that are not in .*image_00002\.jpg",
    ):
        load(tmp_path)
    assert len(load(tmp_path, "test")) == 4


@pytest.mark.parametrize("content", [b"", b"no matrix" * 100, None])
def test_damaged_lists(tmp_path, content):
    write_official(tmp_path)
    whole = (tmp_path / "setid.mat").read_bytes()
    (tmp_path / "setid.mat").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"setid\.mat is damaged") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_missing(tmp_path):
    write_official(tmp_path)
    (tmp_path / "imagelabels.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*imagelabels\.mat"):
        load(tmp_path)


def test_download_is_torchvisions_and_happens_once(tmp_path, monkeypatch):
    write_official(tmp_path / "there")
    fetched = []

    def flowers(root, download):
        fetched.append(root)
        shutil.copytree(tmp_path / "there", root / "flowers-102")

    monkeypatch.setattr(torchvision.datasets, "Flowers102", flowers)
    assert len(load(tmp_path / "new", download=True)) == 5
    assert len(load(tmp_path / "new", "test", download=True)) == 4
    assert len(fetched) == 1


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(root, download):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets, "Flowers102", fail)
    with pytest.raises(OSError, match=r"could not download Flowers-102 to .*: no route to host"):
        load(tmp_path / "new", download=True)
