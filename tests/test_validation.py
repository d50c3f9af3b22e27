"""Which images select an epoch: the data set's own validation split, or training images that are held out."""

import shutil

import pytest
import torch
import yaml
from conftest import content_of, rows_of
from finetuning import PLAIN, run

from multicrop.supervised import validation


@pytest.fixture(scope="module")
def three_splits(colours, tmp_path_factory):
    """The training and test images, and 3 others of each class in val/, none of blue."""
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "test"):
        shutil.copytree(colours / split, root / split)
    for name in ("red", "green"):
        (root / "val" / name).mkdir(parents=True)
        for path in sorted((colours / "test" / name).iterdir())[:3]:
            shutil.copy(path, root / "val" / name)
    return root


def splits_looked_at(folder) -> list[str]:
    """By each row of accuracies, the split that it is of."""
    rows = [row for row in rows_of(folder) if "lr" not in row]
    return ["test" if "test_top1" in row else "val" for row in rows]


def test_the_own_validation_split_selects_and_the_test_split_is_seen_once(
    three_splits, tmp_path, capsys
):
    result = run(three_splits, tmp_path, **PLAIN)
    assert splits_looked_at(tmp_path) == ["val", "val", "val", "test"]
    assert result["step"] == 3 * (60 // 12)  # all training images are in use
    assert {row["val_top1"] % (100 / 6) < 0.01 for row in rows_of(tmp_path) if "val_top1" in row}
    assert result["selected_epoch"] in (1, 2, 3)
    said = capsys.readouterr().err
    assert "60 images of image_folder in 3 classes, 6 validation images of its own" in said
    assert "1 of 3 classes have no validation images: blue" in said
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert recipe["validation"] == "own"
    assert run(three_splits, tmp_path, **PLAIN)["step"] == 15  # it resumes


def test_training_images_are_held_out_on_request_and_where_there_is_no_other_split(
    three_splits, colours, tmp_path
):
    for images, flags in ((three_splits, {"validation": "held_out"}), (colours, {})):
        folder = tmp_path / images.name
        assert run(images, folder, epochs=1, **flags, **PLAIN)["step"] == 54 // 12
        assert yaml.safe_load((folder / "recipe.yaml").read_text())["validation"] == "held_out"
    with pytest.raises(ValueError, match=r"--validation own: image_folder in .* has no validation"):
        run(colours, tmp_path / "none", validation="own")


def test_a_run_from_before_goes_on_with_what_it_held_out(three_splits, tmp_path):
    run(three_splits, tmp_path, validation="held_out", max_steps=2, **PLAIN)
    state = content_of(tmp_path / "checkpoint.pt")["recipe"]
    assert state["validation"] == "held_out"
    with pytest.raises(ValueError, match=r"validation held_out \(now own\)"):
        run(three_splits, tmp_path, **PLAIN)
    assert run(three_splits, tmp_path, validation="held_out", **PLAIN)["status"] == "finished"


def test_no_validation_as_published_says_what_it_leaves_out(three_splits, tmp_path, capsys):
    result = run(three_splits, tmp_path, val_fraction=0.0, epochs=1, **PLAIN)
    assert splits_looked_at(tmp_path) == ["test", "test"] and result["best"] is None
    assert "--val_fraction 0 leaves out: --validation own takes it" in capsys.readouterr().err


def few(colours, root, each: dict[str, int]):
    shutil.copytree(colours / "test", root / "test")
    for name, count in each.items():
        (root / "train" / name).mkdir(parents=True)
        for path in sorted((colours / "train" / name).iterdir())[:count]:
            shutil.copy(path, root / "train" / name)
    return root


def test_small_classes_hold_out_an_image_each(colours, tmp_path, capsys):
    images = few(colours, tmp_path / "images", {"red": 5, "green": 5, "blue": 1})
    run(images, tmp_path / "run", epochs=1, batch_size=2, **PLAIN)
    said = capsys.readouterr().err
    assert "9 images of image_folder in 3 classes, 2 held out for validation" in said
    assert "no validation images (their only training image is not held out): blue" in said
    assert splits_looked_at(tmp_path / "run") == ["val", "test"]


def test_where_nothing_can_be_held_out_the_test_split_is_still_seen_once(colours, tmp_path, capsys):
    images = few(colours, tmp_path / "images", {"red": 1, "green": 1, "blue": 1})
    result = run(images, tmp_path / "run", epochs=2, batch_size=2, **PLAIN)
    assert splits_looked_at(tmp_path / "run") == ["test"] and result["best"] is None
    assert "3 of 3 classes have no validation images" in capsys.readouterr().err


def test_large_classes_hold_out_what_they_always_did():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)
    held = validation.split(labels, 0.1, torch.Generator().manual_seed(0))[1]
    assert labels[held].bincount().tolist() == [10, 5, 1]
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(100, generator=random)
    assert set(order[:10].tolist()) == set(held[:10].tolist())
