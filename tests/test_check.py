"""multicrop check: the lines about classes, copies and empty folders, and where it lets the runs go."""

import shutil

import numpy as np
import pytest
from PIL import Image

from multicrop.commands import check as checking
from multicrop.config.check import Recipe
from multicrop.registry import source


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def write_classes(folder, counts, seed=0):
    for name, count in counts.items():
        for i in range(count):
            write(folder / name / f"{i}.png", hash_of(folder.name, name, i) + seed)


def hash_of(*words) -> int:
    """A seed for each image, so that no two are alike."""
    return sum(ord(letter) * 257**i for i, letter in enumerate(str(words))) % 2**31


def check(path, **values):
    return checking.run(Recipe(str(path), workers=1, **values))


@pytest.mark.parametrize("classes", [3, 12, 20])
def test_classes_are_named_with_their_counts(tmp_path, capsys, classes):
    counts = {f"c{i:02d}": 1 + i % 3 for i in range(classes)}
    write_classes(tmp_path / "train", counts)
    write_classes(tmp_path / "test", counts)
    check(tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "classes: " in line]
    named = [f"c{i:02d} {1 + i % 3}" for i in range(min(classes, 12))]
    more = " and 8 more" if classes == 20 else ""
    assert line == f"classes: {', '.join(named)}{more}"


@pytest.mark.parametrize("owls", [2, 3])
def test_unequal_classes_are_said(tmp_path, capsys, owls):
    write_classes(tmp_path / "train", {"cat": 20, "owl": owls})
    write_classes(tmp_path / "test", {"cat": 1, "owl": 1})
    check(tmp_path)
    wanted = "warning: classes are unequal, 20 training images of cat and 2 of owl: look at"
    assert (wanted in capsys.readouterr().err) == (owls == 2)


@pytest.mark.parametrize("layout", ["split", "held out"])
def test_classes_without_test_images_are_said(tmp_path, capsys, layout):
    if layout == "split":
        write_classes(tmp_path / "train", {"cat": 3, "dog": 3, "owl": 3})
        write_classes(tmp_path / "test", {"cat": 2, "dog": 1})
    else:
        write_classes(tmp_path, {"cat": 3, "dog": 3, "owl": 1})
    check(tmp_path)
    assert "warning: 1 of 3 classes have no test images: owl" in capsys.readouterr().err


def test_all_empty_classes_are_said_and_the_rest_is_checked(tmp_path, capsys):
    write_classes(tmp_path / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "test", {"cat": 2, "dog": 2})
    for name in ("ape", "bee", "cow"):
        (tmp_path / "train" / name).mkdir()
    (tmp_path / "train" / "bee" / "notes.txt").write_text("")
    (tmp_path / "train" / "dog" / "bad.png").write_bytes(b"no image")
    found = check(tmp_path)
    assert found["train"]["empty_classes"] == ["ape", "bee", "cow"]
    assert found["test"]["images"] == 4 and found["files"]["unreadable"] == 1
    said = capsys.readouterr().err
    assert "without images: ape, bee, cow: put some there or remove the class" in said
    assert "unequal" not in said
    # A run refuses them, all at once and before it decodes
    wanted = r"class folders ape, bee, cow of .*train hold no images \(3 of 5 are empty\)"
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=wanted):
            source("image_folder").load(tmp_path, split)


# Copies


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "copy"])
def test_one_image_in_two_classes_is_said(tmp_path, capsys, kind):
    write_classes(tmp_path / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "test", {"cat": 2, "dog": 2})
    image, other = tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "dog" / "x.png"
    if kind == "symbolic link":
        other.symlink_to(image)
    elif kind == "hard link":
        other.hardlink_to(image)
    else:
        shutil.copy(image, other)
    found = check(tmp_path)["copies"]
    assert found == {"two_labels": [["train cat/1.png", "train dog/x.png"]], "two_splits": []}
    wanted = (
        "warning: equal files with different labels: 1, e.g. train cat/1.png and train dog/x.png"
    )
    assert wanted in capsys.readouterr().err


def test_a_test_image_that_is_trained_on_is_said(tmp_path, capsys):
    write_classes(tmp_path / "in" / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "in" / "test", {"cat": 2, "dog": 2})
    shutil.copy(tmp_path / "in/train/cat/0.png", tmp_path / "in/test/cat/9.png")
    shutil.copy(tmp_path / "in/train/cat/0.png", tmp_path / "in/train/cat/8.png")  # harmless
    wanted = [["train cat/0.png", "test cat/9.png"]]
    archive = shutil.make_archive(str(tmp_path / "x"), "gztar", tmp_path / "in")
    for path in (tmp_path / "in", archive):
        assert check(path)["copies"] == {"two_labels": [], "two_splits": wanted}
        said = capsys.readouterr().err
        assert said.count("warning: equal files in the training split and another one: 1") == 1


def test_equal_files_that_are_no_images_are_no_copies(tmp_path, capsys):
    write_classes(tmp_path, {"cat": 4, "dog": 4})
    for name in ("cat", "dog"):
        (tmp_path / name / "bad.png").write_bytes(b"no image")
    assert check(tmp_path)["copies"] == {"two_labels": [], "two_splits": []}
    assert "copies" not in check(tmp_path, decode=False)
    assert "equal files" not in capsys.readouterr().err


# Where runs go


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("my photos", "my_photos"),
        ("my photos/train", "my_photos"),
        ("birds.zip", "birds"),
        ("birds.v2.tar.gz", "birds.v2"),
        ("my photos/labels.csv", "my_photos"),
        ("shards/train-{000..017}.tar", "shards"),
        ("packed/train.lmdb", "packed"),
    ],
)
def test_a_run_is_called_like_its_images(tmp_path, monkeypatch, given, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos" / "train").mkdir(parents=True)
    (tmp_path / "my photos" / "labels.csv").write_text("")
    assert checking.run_name(given, source("image_folder")) == name
    assert checking.run_name(given, source("cifar10")) == "cifar10"


def test_commands_of_two_folders_do_not_meet(tmp_path):
    folders = set()
    for name in ("cats", "dogs"):
        write_classes(tmp_path / name, {"a": 3, "b": 3})
        first, second = check(tmp_path / name)["commands"]
        assert first.endswith(f"--output_dir runs/{name}")
        assert second.endswith(f"--pretrained_weights runs/{name} --output_dir runs/{name}-ft")
        folders.add(first)
    assert len(folders) == 2
