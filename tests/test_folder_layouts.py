"""Class folders as people have them: wrapped, with other names of splits, beside what is no class; said in one line."""

import shutil

import numpy as np
import pytest
from PIL import Image

from multicrop.commands import check as checking
from multicrop.config.check import Recipe
from multicrop.registry import source

RECIPE = "output_dir: runs/ssl\nsave_steps: 1000\nlog_freq: 10\narch: vit\n"  # of any run of ours


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def write_classes(folder, classes=("cat", "dog"), each=3):
    for name in classes:
        for i in range(each):
            write(folder / name / f"{i}.png", i)


def listing(root, split="train"):
    return source("image_folder").listing(root, split)


def counts(root) -> dict[str, int]:
    """The number of images of each split there is."""
    entry = source("image_folder")
    splits = ["train", "test"] + ["val"] * entry.has_validation(root)
    return {split: len(entry.listing(root, split).names) for split in splits}


@pytest.mark.parametrize("wrapper", ["data", "a/b/data"])
def test_splits_are_found_from_the_folder_above(tmp_path, capsys, wrapper):
    write_classes(tmp_path / wrapper / "train")
    write_classes(tmp_path / wrapper / "test", each=2)
    assert listing(tmp_path).classes == ("cat", "dog")
    assert counts(tmp_path) == {"train": 6, "test": 4}
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{tmp_path}: train from {wrapper}/train/, test from {wrapper}/test/"]


@pytest.mark.parametrize("wrapper", ["photos", "a/photos"])
def test_classes_are_found_from_the_folder_above(tmp_path, capsys, wrapper):
    write_classes(tmp_path / wrapper)
    found, plain = listing(tmp_path), listing(tmp_path / wrapper)
    assert found == plain and found.classes == ("cat", "dog")  # and so the same cache
    assert capsys.readouterr().err.count(f"opened {tmp_path / wrapper}") == 1


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_read_like_its_folder(tmp_path, kind):
    write_classes(tmp_path / "in" / "x" / "Train" / "images")
    write_classes(tmp_path / "in" / "x" / "Test" / "images", each=2)
    write(tmp_path / "in" / "cover.png")
    file = shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "in")
    for root in (tmp_path / "in", file):
        assert listing(root).classes == ("cat", "dog")
        assert counts(root) == {"train": 6, "test": 4}


@pytest.mark.parametrize(
    "folders",
    [
        ("Train", "Test", None),
        ("TRAIN", "VAL", None),
        ("training", "testing", "validation"),
        ("train", "eval", "dev"),
        ("Training", "test", "Valid"),
    ],
)
def test_usual_names_of_splits(tmp_path, folders):
    train, test, val = folders
    write_classes(tmp_path / train, each=4)
    write_classes(tmp_path / test)
    wanted = {"train": 8, "test": 6}
    if val:
        write_classes(tmp_path / val, each=2)
        wanted["val"] = 4
    assert counts(tmp_path) == wanted and listing(tmp_path).classes == ("cat", "dog")
    assert counts(tmp_path / train) == wanted  # as the published commands give it


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("trainset", "testset"),
        ("Train_set", "Test_set"),
        ("training-data", "eval_data"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_names_of_splits_with_something_around_them(tmp_path, train, test):
    write_classes(tmp_path / train)
    write_classes(tmp_path / test, each=2)
    assert listing(tmp_path).classes == ("cat", "dog")
    assert counts(tmp_path) == {"train": 6, "test": 4}


def test_classes_that_only_contain_the_name_of_a_split_stay_classes(tmp_path):
    write_classes(tmp_path, ("express_train", "test_tube", "devil"))
    assert listing(tmp_path).classes == ("devil", "express_train", "test_tube")


def test_of_two_spellings_the_plain_one_is_taken(tmp_path, capsys):
    write_classes(tmp_path / "train", each=4)
    write_classes(tmp_path / "Train", each=2)
    write_classes(tmp_path / "test")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell upper from lower case")
    assert counts(tmp_path) == {"train": 8, "test": 6}
    assert "4 in Train/, which is no split" in capsys.readouterr().err


def test_folders_around_the_classes_of_a_split(tmp_path):
    write_classes(tmp_path / "train" / "images")
    write_classes(tmp_path / "test" / "images", each=2)
    write_classes(tmp_path / "val", classes=("cat",), each=1)  # a class, not a folder around others
    assert counts(tmp_path) == {"train": 6, "test": 4, "val": 1}
    assert listing(tmp_path, "val").labels == [0]


def test_a_class_of_folders_in_a_test_split_stays_a_class(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test" / "dog", classes=("monday", "tuesday"))
    assert listing(tmp_path, "test").labels == [1] * 6


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints", ".git"],
)  # fmt: skip
def test_folders_of_the_system_are_no_classes(tmp_path, capsys, folder):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    for place in (tmp_path, tmp_path / "train", tmp_path / "train" / "cat"):
        write(place / folder / "thumb.png")
    assert listing(tmp_path).classes == ("cat", "dog") and len(listing(tmp_path).names) == 6
    said = capsys.readouterr().err
    assert folder.startswith(".") or f"{folder} (system folder)" in said
    assert len(source("images").listing(tmp_path, "train").names) == 12


def test_runs_of_ours_are_no_classes(tmp_path, capsys):
    write_classes(tmp_path)
    for name in ("runs/ssl", "runs/ft", "best"):
        write(tmp_path / name / "crops.png")
        (tmp_path / name / "recipe.yaml").write_text(RECIPE)
    assert listing(tmp_path).classes == ("cat", "dog")
    assert "best (run folder)" in capsys.readouterr().err
    assert len(source("images").listing(tmp_path, "train").names) == 6


@pytest.mark.parametrize(
    "content", [b"package:\n  name: x\n", b"\xff\xfe\x00"], ids=["conda", "binary"]
)
def test_a_recipe_of_another_program_is_no_run(tmp_path, content):
    write_classes(tmp_path)
    (tmp_path / "cat" / "recipe.yaml").write_bytes(content)
    assert listing(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled"])
@pytest.mark.parametrize("place", [".", "train"])
def test_images_without_labels_are_no_class_and_said(tmp_path, capsys, name, place):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    for i in range(3):
        write(tmp_path / place / name / f"{i}.png")
    assert listing(tmp_path).classes == ("cat", "dog")
    wanted = f"3 without labels in {name}/ (pretraining takes them: --dataset images)"
    assert wanted in capsys.readouterr().err
    assert len(source("images").listing(tmp_path / place / name, "train").names) == 3


def test_one_class_is_warned_of_once(tmp_path, capsys):
    write_classes(tmp_path, classes=("cat",))
    listing(tmp_path), listing(tmp_path, "test")
    said = capsys.readouterr().err
    assert said.count(f"warning: {tmp_path} has one class, cat:") == 1


def test_a_class_called_like_a_split_is_warned_of(tmp_path, capsys):
    write_classes(tmp_path, classes=("bus", "car", "train"))
    assert listing(tmp_path).classes == ("bus", "car", "train")
    assert f"warning: {tmp_path} has a class called train, like a split" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "train"])
@pytest.mark.parametrize(
    "pair", [("images", "masks"), ("JPEGImages", "Annotations"), ("imgs", "labels"), ("rgb", "ground_truth")]
)  # fmt: skip
def test_folders_of_images_and_annotations_are_warned_of(tmp_path, capsys, place, pair):
    write_classes(tmp_path / place, pair)
    if place == "train":
        write_classes(tmp_path / "test", pair)
    listing(tmp_path)
    said = capsys.readouterr().err
    assert f"classes called {pair[0]} and {pair[1]}, like the folders of images" in said
    assert f"--dataset images --datapath {(tmp_path / place / pair[0]).resolve()}" in said


def test_annotations_that_are_no_images_are_warned_of_too(tmp_path, capsys):
    """As for detection: a text file for each image."""
    write_classes(tmp_path, ("images",))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(ValueError, match=r"class folder labels of .* holds no images"):
        source("image_folder").load(tmp_path, "train")
    assert "classes called images and labels, like the folders" in capsys.readouterr().err


def test_classes_called_like_annotations_alone_stay_classes(tmp_path, capsys):
    write_classes(tmp_path, ("mask", "no_mask"))
    assert listing(tmp_path).classes == ("mask", "no_mask")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "validation"), ("train",)])
def test_splits_of_images_with_a_table_are_no_classes(tmp_path, above, splits):
    """Hugging Face's imagefolder, and Kaggle's train.csv above train/."""
    for split in splits:
        write(tmp_path / split / "0.png"), write(tmp_path / split / "1.png", 1)
        place = tmp_path / f"{split}.csv" if above else tmp_path / split / "metadata.csv"
        place.write_text("file_name,label\n0.png,a\n1.png,b\n")
    wanted = r"has no class folders in .*; labels in a table .*csv.* are --dataset table"
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=wanted):
            listing(tmp_path, split)
    assert checking.recognise(str(tmp_path), None)[1] == "table"


def test_where_classes_are_doubtful_a_table_is_named(tmp_path, capsys):
    for i in range(4):
        write(tmp_path / "a" / "images" / f"{i}.png", i)
        write(tmp_path / "b" / f"{i}.png", i)
    (tmp_path / "a" / "labels.csv").write_text("file,label\n")
    (tmp_path / "b" / "labels.csv").write_text("file,label\n")
    listing(tmp_path / "a")
    assert "labels in a table (labels.csv) are --dataset table" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"has no class folders.*\(labels\.csv\) are --dataset table"
    ):
        listing(tmp_path / "b")


def test_a_table_beside_plain_classes_is_not_mentioned(tmp_path, capsys):
    write_classes(tmp_path / "train"), write_classes(tmp_path / "test")
    (tmp_path / "train.csv").write_text("file,label\n")
    listing(tmp_path)
    assert capsys.readouterr().err == ""


def test_plain_layouts_say_nothing(tmp_path, capsys):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    (tmp_path / "readme.txt").write_text("")
    listing(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_test_folder_without_classes_is_said(tmp_path, capsys):
    write_classes(tmp_path / "train", each=10)
    write(tmp_path / "test" / "1.png")
    assert counts(tmp_path) == {"train": 18, "test": 2}
    assert "1 in test/, which is no split with class folders" in capsys.readouterr().err


# Links


def test_a_link_to_a_folder_above_is_not_followed(tmp_path, capsys):
    write_classes(tmp_path / "data" / "train")
    write_classes(tmp_path / "data" / "test")
    for place in ("train/cat/all", "train/dog/cats", "train/kitten", "test/cat/more"):
        target = "train/cat" if place in ("train/dog/cats", "train/kitten") else "."
        link = tmp_path / "data" / place
        link.symlink_to(tmp_path / "data" / target, target_is_directory=True)
    assert counts(tmp_path / "data") == {"train": 6, "test": 6}
    assert listing(tmp_path / "data").classes == ("cat", "dog")
    assert "train/cat/all (link to what is read anyway)" in capsys.readouterr().err
    assert len(source("images").listing(tmp_path / "data", "train").names) == 12


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    write_classes(tmp_path / "store", classes=("a", "b"))
    (tmp_path / "data").mkdir()
    for name, target in (("cat", "a"), ("dog", "b")):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / target)
    (tmp_path / "store" / "a" / "up").symlink_to(tmp_path / "data")  # a circle
    found = listing(tmp_path / "data")
    assert found.classes == ("cat", "dog") and len(found.names) == 4


def test_splits_that_are_links_are_splits(tmp_path, capsys):
    write_classes(tmp_path / "store" / "a")
    write_classes(tmp_path / "store" / "b", each=2)
    (tmp_path / "data").mkdir()
    for name, target in (("train", "a"), ("test", "b"), ("val", "b")):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / target)
    assert counts(tmp_path / "data") == {"train": 6, "test": 4, "val": 4}
    assert capsys.readouterr().err == ""
    files = checking.run(Recipe(str(tmp_path / "data"), workers=1))["files"]
    assert files == {"files": 14, "used": 14, "unreadable": 0, "left_out": {}}


# multicrop check


def test_loose_images_with_a_run_beside_are_unlabelled(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    (tmp_path / "runs" / "ssl").mkdir(parents=True)
    (tmp_path / "runs" / "ssl" / "recipe.yaml").write_text(RECIPE)
    found = checking.run(Recipe(str(tmp_path), workers=1))
    assert found["dataset"] == "images" and found["train"]["images"] == 3


def test_check_reports_the_validation_split(tmp_path, capsys):
    for split, each in (("train", 4), ("test", 3), ("val", 2)):
        write_classes(tmp_path / split, each=each)
    found = checking.run(Recipe(str(tmp_path), workers=1))
    assert [found[split]["images"] for split in ("train", "test", "val")] == [8, 6, 4]
    assert "val: 4 images, 2 classes of 2 to 2" in capsys.readouterr().err
