"""Every entry of datasets/: layouts, labels, constants, splits, and what a user can get wrong. No network."""

import dataclasses
import inspect
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import ROOT
from PIL import Image

from multicrop.datasets._images import ImageSet, LoadOptions
from multicrop.registry import dataset_table, declarations, names, source

CIFAR_META = {"filename": "batches.meta", "key": "label_names", "md5": None}
FOLDER_SETS = ("cifar10", "cifar100", "svhn", "cinic10", "tiny_imagenet", "image_folder")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(name, root, split, **options) -> ImageSet:
    return source(name).load(root, split, LoadOptions(**options))


def noise(seed, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def write(path, seed=0, side=8):
    """A lossless image of noise that its seed identifies, whatever the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, side)).save(path, "PNG")


def write_classes(folder, classes=("cat", "dog"), each=2, seed=0):
    for c, name in enumerate(classes):
        for i in range(each):
            write(folder / name / f"{i:03d}.png", seed + 100 * c + i)


def is_noise(image, seed) -> bool:
    return np.array_equal(image.numpy(), noise(seed, image.shape[-1]).transpose(2, 0, 1))


# The contract that every entry keeps


@pytest.mark.parametrize("name", names("datasets"))
def test_signature(name):
    parameters = inspect.signature(source(name).data_set.load).parameters
    assert list(parameters)[:3] == ["root", "split", "options"]
    assert parameters["options"].default == LoadOptions(64, False, None, None)


@pytest.mark.parametrize("name", names("datasets"))
def test_unknown_split(name, tmp_path):
    with pytest.raises(ValueError, match=r"'extra'.*'train' or 'test'"):
        load(name, tmp_path, "extra")


@pytest.mark.parametrize("name", sorted({*names("datasets")} - {"shapes"}))
def test_missing_root_is_one_line(name, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load(name, tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted({*names("datasets")} - {"shapes"}))
def test_empty_folder_is_one_line(name, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(name, tmp_path, "train")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted({*names("datasets")} - {"shapes"}))
def test_file_instead_of_a_folder(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        load(name, tmp_path / "file", "train")


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_class_folders_without_images(name, tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="hold no images"):
        load(name, tmp_path, "train")


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_one_class_without_images(name, tmp_path):
    write_classes(tmp_path / "train")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder empty of .* holds no images \(1 of 3"):
        load(name, tmp_path, "train")


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_class_folder_layout(name, tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / ("val" if name == "tiny_imagenet" else "test"), each=1, seed=50)
    train, test = load(name, tmp_path, "train"), load(name, tmp_path, "test")
    assert train.pixels.shape == (4, 3, 8, 8) and train.pixels.dtype == torch.uint8
    assert train.labels.tolist() == [0, 0, 1, 1] and train.labels.dtype == torch.int64
    assert all(
        is_noise(image, seed) for image, seed in zip(train.pixels, (0, 1, 100, 101), strict=True)
    )
    assert test.labels.tolist() == [0, 1] and is_noise(test.pixels[1], 150)
    assert train.classes == test.classes == ("cat", "dog") and len(test) == 2
    assert train.mean == test.mean and train.std == test.std


@pytest.mark.parametrize("name", FOLDER_SETS)
def test_test_class_that_training_lacks(name, tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / ("val" if name == "tiny_imagenet" else "test"), classes=("cat", "cow"))
    with pytest.raises(
        ValueError, match=r"cow of .* is a class that the training split does not have"
    ):
        load(name, tmp_path, "test")


def test_test_classes_keep_the_training_labels(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", classes=("dog",), each=3)
    assert load("image_folder", tmp_path, "test").labels.tolist() == [1, 1, 1]


def test_label_of_a_skipped_image_goes_with_it(tmp_path, capsys):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    (tmp_path / "train" / "cat" / "001.png").write_bytes(b"no image")
    train = load("cifar10", tmp_path, "train")
    assert train.labels.tolist() == [0, 1, 1] and is_noise(train.pixels[1], 100)
    assert "cat/001.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spelling, entry",
    [
        ("CIFAR10", "cifar10"),
        ("CIFAR100", "cifar100"),
        ("CINIC", "cinic10"),
        ("SVHN", "svhn"),
        ("Tiny-Imagenet", "tiny_imagenet"),
        ("Tiny_Imagenet", "tiny_imagenet"),
    ],
)
def test_published_spellings(spelling, entry):
    assert source(spelling).entry == entry


# CIFAR and SVHN as torchvision stores them (its checksums are switched off: the files here are tiny)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "train_list", [[name, None] for name in batches]
    )
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", CIFAR_META)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate([*batches, "test_batch"]):
        rows = noise(i, 32).transpose(2, 0, 1).reshape(1, -1).repeat(2, 0)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [i, 9 - i]}))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    )
    return tmp_path


def test_cifar10_binaries(cifar10):
    train, test = load("cifar10", cifar10, "train"), load("cifar10", cifar10, "test")
    assert train.pixels.shape == (10, 3, 32, 32) and test.pixels.shape == (2, 3, 32, 32)
    assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5] and test.labels.tolist() == [
        5,
        4,
    ]
    assert is_noise(train.pixels[2], 1) and is_noise(test.pixels[0], 5)
    assert train.classes[3] == "class3" and len(train.classes) == 10
    assert train.mean == (0.4914, 0.4822, 0.4465) and train.std == (0.2470, 0.2435, 0.2616)


def test_cifar10_inner_folder_or_a_folder_of_its_name(cifar10, tmp_path):
    assert len(load("cifar10", cifar10 / "cifar-10-batches-py", "train")) == 10
    (tmp_path / "data").mkdir()
    shutil.move(
        cifar10 / "cifar-10-batches-py", tmp_path / "data" / "CIFAR_10" / "cifar-10-batches-py"
    )
    assert len(load("cifar10", tmp_path / "data", "train")) == 10


def test_cifar10_damaged(cifar10):
    (cifar10 / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"incomplete or damaged.*--download"):
        load("cifar10", cifar10, "train")


def test_cifar100_binaries(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "test_list", [["test", None]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": None}
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", meta)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for i, name in enumerate(("train", "test")):
        rows = noise(i, 32).transpose(2, 0, 1).reshape(1, -1)
        (folder / name).write_bytes(
            pickle.dumps({"data": rows, "fine_labels": [97 + i], "coarse_labels": [3]})
        )
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]})
    )
    train, test = load("cifar100", tmp_path, "train"), load("cifar100", tmp_path, "test")
    assert (
        train.labels.tolist() == [97] and test.labels.tolist() == [98] and len(train.classes) == 100
    )
    assert is_noise(test.pixels[0], 1)
    assert train.mean == (0.5070, 0.4865, 0.4409) and train.std == (0.2673, 0.2564, 0.2762)


def test_svhn_binaries(tmp_path, monkeypatch):
    listed = {split: ["", f"{split}_32x32.mat", None] for split in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    for i, split in enumerate(listed):
        images = np.stack([noise(2 * i, 32), noise(2 * i + 1, 32)], 3)
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat", {"X": images, "y": np.array([[10], [3 + i]], np.uint8)}
        )
    train, test = load("svhn", tmp_path, "train"), load("svhn", tmp_path, "test")
    assert train.labels.tolist() == [0, 3] and test.labels.tolist() == [
        0,
        4,
    ]  # digit 0 is stored as 10
    assert is_noise(train.pixels[1], 1) and is_noise(test.pixels[1], 3)
    assert train.classes == tuple("0123456789")
    assert train.mean == (0.4377, 0.4438, 0.4728) and train.std == (0.1980, 0.2010, 0.1970)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_missing_files_name_what_was_looked_for(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .* and train/<class>/.*--download"):
        load(name, tmp_path, "train")


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_failed_download_is_one_line(name, tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(getattr(torchvision.datasets, name.upper()), "download", fail)
    with pytest.raises(OSError, match=r"could not download .*no route to host") as caught:
        load(name, tmp_path / "new", "train", download=True)
    assert "\n" not in str(caught.value)


def test_download_fetches_when_absent_only(cifar10, tmp_path, monkeypatch):
    source, target = cifar10 / "cifar-10-batches-py", tmp_path / "new"
    fetched = []

    def copy(self):
        fetched.append(self.root)
        shutil.copytree(source, f"{self.root}/cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", copy)
    assert len(load("cifar10", target, "train", download=True)) == 10
    assert len(load("cifar10", target, "test", download=True)) == 2
    assert len(fetched) == 1


# CINIC-10 and Tiny-ImageNet


def test_cinic10_prefers_test_and_takes_valid_without_it(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "valid", each=1, seed=50)
    assert is_noise(load("cinic10", tmp_path, "test").pixels[0], 50)
    write_classes(tmp_path / "test", each=1, seed=70)
    assert is_noise(load("cinic10", tmp_path, "test").pixels[0], 70)
    assert (
        len(load("cinic10", tmp_path / "train", "train")) == 4
    )  # as the published commands give it
    assert is_noise(load("cinic10", tmp_path / "train", "test").pixels[0], 70)
    assert load("cinic10", tmp_path, "train").mean == (0.47889522, 0.47227842, 0.43047404)


@pytest.fixture
def tiny(tmp_path):
    """The layout of the unpacked archive, with its wnids.txt in an order of its own."""
    root = tmp_path / "tiny-imagenet-200"
    for c, name in enumerate(("n02", "n01")):
        for i in range(2):
            write(root / "train" / name / "images" / f"{name}_{i}.JPEG", 10 * c + i, 64)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    for i in range(3):
        write(root / "val" / "images" / f"val_{i}.JPEG", 50 + i, 64)
    (root / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n"
    )
    write(root / "test" / "images" / "test_0.JPEG", 90, 64)
    (root / "wnids.txt").write_text("n02\nn01\n")
    return root


def test_tiny_imagenet_archive(tiny):
    train, test = load("tiny_imagenet", tiny, "train"), load("tiny_imagenet", tiny, "test")
    assert train.classes == test.classes == ("n01", "n02")
    assert train.pixels.shape == (4, 3, 64, 64) and train.labels.tolist() == [0, 0, 1, 1]
    assert is_noise(train.pixels[0], 10) and is_noise(train.pixels[3], 1)
    assert test.labels.tolist() == [1, 0, 1] and is_noise(test.pixels[1], 51)
    assert train.mean == (0.4802, 0.4481, 0.3975) and train.std == (0.2770, 0.2691, 0.2821)


@pytest.mark.parametrize("place", ["train", ".."], ids=["its train folder", "the folder above"])
def test_tiny_imagenet_root_may_be(tiny, place):
    assert len(load("tiny_imagenet", tiny / place, "train")) == 4
    assert load("tiny_imagenet", tiny / place, "test").labels.tolist() == [1, 0, 1]


def test_tiny_imagenet_rearranged_validation(tiny):
    for i, name in enumerate(("n02", "n01", "n02")):
        (tiny / "val" / name / "images").mkdir(parents=True, exist_ok=True)
        shutil.move(tiny / "val" / "images" / f"val_{i}.JPEG", tiny / "val" / name / "images")
    test = load("tiny_imagenet", tiny, "test")  # the empty val/images is left, and is no class
    assert test.labels.tolist() == [0, 1, 1] and is_noise(test.pixels[0], 51)


def test_tiny_imagenet_without_training_images(tiny):
    shutil.rmtree(tiny / "train")
    assert load("tiny_imagenet", tiny, "test").labels.tolist() == [1, 0, 1]


def test_tiny_imagenet_image_without_annotation(tiny):
    write(tiny / "val" / "images" / "val_9.JPEG", 59)
    with pytest.raises(ValueError, match=r"no known class for 1 images, e\.g\. images/val_9\.JPEG"):
        load("tiny_imagenet", tiny, "test")


@pytest.mark.parametrize("name", ["cinic10", "tiny_imagenet"])
def test_sets_without_download_say_where_to_get_them(name, tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="http"):
            load(name, root, "train", download=True)


# Folders of the user's own


@pytest.mark.parametrize("evaluation", ["test", "val", "valid"])
def test_image_folder_with_splits(tmp_path, evaluation):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / evaluation, each=1, seed=50)
    train, test = load("image_folder", tmp_path, "train"), load("image_folder", tmp_path, "test")
    assert len(train) == 4 and is_noise(test.pixels[0], 50)
    unit = train.pixels.double() / 255
    np.testing.assert_allclose(train.mean, unit.mean((0, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(test.std, unit.std((0, 2, 3), correction=0), atol=1e-9)


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_image_folder_has_a_third_split_beside_a_test_folder(tmp_path, validation):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / validation, classes=("dog",), each=1, seed=50)
    entry = source("image_folder")
    assert not entry.has_validation(tmp_path)  # it is the test split
    with pytest.raises(FileNotFoundError, match="no validation folder"):
        load("image_folder", tmp_path, "val")
    write_classes(tmp_path / "test", each=1, seed=70)
    assert entry.has_validation(tmp_path) and entry.has_validation(tmp_path / "train")
    val = load("image_folder", tmp_path, "val")
    assert val.labels.tolist() == [1] and is_noise(val.pixels[0], 50)
    assert (
        val.classes == ("cat", "dog") and val.mean == load("image_folder", tmp_path, "train").mean
    )
    assert is_noise(load("image_folder", tmp_path, "test").pixels[0], 70)


@pytest.mark.parametrize("name", sorted({*names("datasets")} - {"image_folder"}))
def test_an_empty_folder_has_no_validation(name, tmp_path):
    assert not source(name).has_validation(tmp_path)


@pytest.mark.parametrize("below", [".", "train"])
def test_image_folder_without_splits_holds_out_a_tenth_of_each_class(tmp_path, capsys, below):
    write_classes(tmp_path / below, each=20)
    train, test = load("image_folder", tmp_path, "train"), load("image_folder", tmp_path, "test")
    assert train.labels.bincount().tolist() == [18, 18] and test.labels.bincount().tolist() == [
        2,
        2,
    ]
    seen = {image.numpy().tobytes() for image in [*train.pixels, *test.pixels]}
    assert len(seen) == 40
    assert capsys.readouterr().err.count("4 of 40 images are held out") == 1
    assert torch.equal(load("image_folder", tmp_path, "test", source_size=32).pixels, test.pixels)


def test_image_folder_small_classes_keep_an_image_for_each_split(tmp_path):
    write_classes(tmp_path, each=2)
    assert load("image_folder", tmp_path, "train").labels.tolist() == [0, 1]
    assert load("image_folder", tmp_path, "test").labels.tolist() == [0, 1]


def test_image_folder_finds_nested_images_and_ignores_hidden_ones(tmp_path):
    write_classes(tmp_path / "test")
    write(tmp_path / "train" / "cat" / "deep" / "deeper" / "a.JPG", 1)
    write(tmp_path / "train" / "cat" / ".hidden.png", 2)
    write(tmp_path / "train" / ".cow" / "a.png", 3)
    write(tmp_path / "train" / "dog" / "b.png", 4)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("")
    train = load("image_folder", tmp_path, "train")
    assert (
        train.labels.tolist() == [0, 1]
        and is_noise(train.pixels[0], 1)
        and train.classes == ("cat", "dog")
    )


def test_image_folder_with_an_evaluation_folder_only(tmp_path):
    write_classes(tmp_path / "val")
    with pytest.raises(FileNotFoundError, match="no train/"):
        load("image_folder", tmp_path, "test")


def test_image_folder_without_classes_points_to_images(tmp_path):
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no class folders.*--dataset images"):
        load("image_folder", tmp_path, "train")


def test_source_size_reaches_the_decoder(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    assert load("image_folder", tmp_path, "train", source_size=4).pixels.shape == (4, 3, 4, 4)


def test_images_finds_every_image_below(tmp_path):
    for i, name in enumerate(("a.png", "b/c.jpeg", "b/d/e.webp", "f/g.txt")):
        write(tmp_path / name, i)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = load("images", tmp_path, "train")
    assert len(found) == 3 and found.labels is None and found.classes == ()
    assert all(is_noise(image, seed) for seed, image in enumerate(found.pixels))
    np.testing.assert_allclose(found.mean, found.pixels.double().mean((0, 2, 3)) / 255, atol=1e-9)


def test_images_has_no_test_split(tmp_path):
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no labels"):
        load("images", tmp_path, "test")


def test_all_unreadable(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 1 images"):
        load("images", tmp_path, "train")


def test_labels_must_match_the_images():
    with pytest.raises(ValueError, match="2 images have 3 labels"):
        ImageSet(
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            (),
            (),
            (),
        )


# The declarations: DATASET at the end of each file


@pytest.mark.parametrize("name", names("datasets"))
def test_a_declaration_is_read_alike_with_and_without_importing_it(name):
    data_set = source(name).data_set
    fields = {field.name for field in dataclasses.fields(data_set)} - {
        "load",
        "listing",
        "recognise",
        "validation",
        "unsplit",
        "inventory",
    }
    defaults = {"labelled": True, "own": False, "aliases": (), "variants": {}}
    declared = defaults | declarations()[name]
    assert declared == {field: getattr(data_set, field) for field in fields}


def test_ones_own_images_are_no_published_set():
    own = {name for name in names("datasets") if source(name).own}
    assert own == {"hf", "image_folder", "images", "lmdb", "parquet", "table", "webdataset"}


def test_every_name_of_a_data_set_is_its_own():
    spellings = []
    for name in names("datasets"):
        data_set = source(name).data_set
        spellings += [name, *data_set.aliases, *data_set.variants]
    plain = [re.sub("[^a-z0-9]", "", name.lower()) for name in spellings]
    assert len(set(plain)) == len(plain)
    for spelling in spellings:
        assert source(spelling) == source(spelling.upper())


def test_variants_are_arguments_of_load_and_listing():
    for name in names("datasets"):
        data_set = source(name).data_set
        for variant in data_set.variants.values():
            for function in filter(None, (data_set.load, data_set.listing)):
                assert set(variant) <= set(inspect.signature(function).parameters)


def test_the_table_of_the_documentation_is_that_of_the_declarations():
    assert dataset_table() in (ROOT / "docs" / "datasets.md").read_text(), (
        "docs/datasets.md needs the table that multicrop.registry.dataset_table() gives"
    )


def test_the_help_text_names_every_data_set_and_imports_none():
    code = (
        "import sys; from multicrop.registry import dataset_help, dataset_table; dataset_table();"
        "print(dataset_help()); print(dataset_help(labelled=True));"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    spellings, labelled, imported = done.stdout.splitlines()
    assert set(names("datasets")) < set(spellings.split(", ")) and "clipart" in spellings
    assert set(spellings.split(", ")) - set(labelled.split(", ")) == {"images"}
    assert imported == "False False"
