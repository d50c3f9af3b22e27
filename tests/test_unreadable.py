"""Files that cannot be read: training goes on without them, and no score counts them, cached or streamed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import recipe
from finetuning import PLAIN, run
from PIL import Image
from probed import faint_images, save

from multicrop.commands import check, knn, labels, linear, pretrain, robustness
from multicrop.config.check import Recipe as Check
from multicrop.config.knn import Recipe as Knn
from multicrop.config.labels import Recipe as Labels
from multicrop.config.linear import Recipe as Linear
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.robustness import Recipe as Robustness
from multicrop.datasets import _console
from multicrop.datasets._images import LoadOptions
from multicrop.datasets._stream import Streamed
from multicrop.registry import source

BOTH = pytest.mark.parametrize("stream", [False, True])
SHORT = {
    "image_size": 16, "source_size": 16, "embed_dim": 16, "num_layers": 1, "num_heads": 2, "patch_size": 8,
    "out_dim": 16, "local_crops_number": 0, "batch_size_per_gpu": 8, "epochs": 1, "knn_freq": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def said_anew():
    _console.forget()
    _console.say_once_of.cache_clear()
    knn.load.cache_clear()


@pytest.fixture
def images(tmp_path):
    """20 + 8 images of each of three classes."""
    return faint_images(tmp_path / "images")


def damage(path):
    path.write_bytes(path.read_bytes()[:60])
    return path


def keep_one(folder):
    """The only image that is left in a folder."""
    first, *others = sorted(folder.iterdir())
    for path in others:
        path.unlink()
    return first


# A class's only image that accuracy could be measured on


@BOTH
@pytest.mark.parametrize("split", ["test", "val"])
def test_the_only_measured_image_of_a_class_may_be_damaged(images, tmp_path, capsys, stream, split):
    if split == "val":
        shutil.copytree(images / "test", images / "val")
    damage(keep_one(images / split / "red"))
    result = run(images, tmp_path / "ft", **PLAIN, epochs=1, stream=stream, workers=1)
    assert result["status"] == "finished"
    said = capsys.readouterr().err
    assert "red/00.png" in said
    assert "no image of class red can be read where accuracy is measured" in said
    if split == "test":
        settings = {**SHORT, "datapath": str(images), "output_dir": str(tmp_path / "ssl")}
        flags = {**settings, "dataset": "image_folder", "stream": stream, "workers": 1}
        assert pretrain.run(recipe(Pretraining, **flags))["status"] == "finished"


@BOTH
def test_the_only_image_that_is_held_out_of_a_class_may_be_damaged(images, tmp_path, stream):
    folder = tmp_path / "whole"
    shutil.copytree(images / "train", folder)
    first = sorted((folder / "red").iterdir())
    for path in first[2:]:
        path.unlink()
    test = source("image_folder").listing(folder, "test")
    (held_out,) = [name for name in test.names if name.startswith("red/")]
    damage(folder / held_out)
    result = run(folder, tmp_path / "ft", **PLAIN, epochs=1, stream=stream, workers=1)
    assert result["status"] == "finished"


@BOTH
def test_a_class_without_a_readable_training_image_is_still_refused(images, tmp_path, stream):
    for path in (images / "train" / "red").iterdir():
        damage(path)
    with pytest.raises(ValueError, match=r"none of the images of the class of red/.* is readable"):
        run(images, tmp_path / "ft", **PLAIN, stream=stream, workers=1)


def test_check_says_which_class_has_no_test_images_and_does_not_ask_to_remove_it(images, capsys):
    damage(keep_one(images / "test" / "red"))
    found = check.run(Check(str(images)))
    assert found["commands"] and found["test"]["unreadable_classes"] == ["red"]
    said = capsys.readouterr().err
    assert "class red: none of its images is readable, it has no test images" in said
    assert "warning: 1 of 3 classes have no test images: red" in said
    assert "remove the class" not in said


def test_no_held_out_image_stands_in_for_one_that_trains(tmp_path):
    """Five images of a class, of which the second is damaged and the third is held out."""
    places = []
    for number in range(5):
        places.append(str(tmp_path / f"{number}.png"))
        Image.new("L", (8, 8), 50 * number).save(places[-1])
    (tmp_path / "1.png").write_bytes(b"damaged")
    names = [Path(place).name for place in places]
    labels = torch.zeros(5, dtype=torch.int64)
    streamed = Streamed(places, names, labels, 8, 1)
    streamed.take_substitutes_from(torch.tensor([0, 1, 3, 4]))
    assert streamed[1].float().mean() == 150
    (tmp_path / "2.png").write_bytes(
        b"damaged"
    )  # what is held out has a stand-in too, and comes to an end
    assert streamed[2].float().mean() == 150
    alone = Streamed(places, names, labels, 8, 1)
    alone.take_substitutes_from(torch.tensor([1]))
    for number in (1, 2):
        with pytest.raises(ValueError, match="none of the images of the class"):
            alone[number]


def test_statistics_and_pixels_of_a_measured_split_have_no_substitutes(images):
    damage(images / "test" / "red" / "00.png")
    data = source("image_folder")
    streamed = data.load(images, "test", LoadOptions(source_size=16, stream=True, workers=1))
    cached = data.load(images, "test", LoadOptions(source_size=16, stream=False))
    pixels = streamed.pixels[:]
    assert streamed.pixels.unreadable == {16}
    kept = torch.arange(24) != 16
    assert torch.equal(pixels[kept], cached.pixels) and not pixels[16].any()


# What is measured


@pytest.fixture
def damaged(images):
    """One training image and one test image cannot be read."""
    damage(images / "train" / "blue" / "03.png"), damage(images / "test" / "green" / "02.png")
    return images


def measured(command, recipe_type, model, datapath, **flags):
    """What a command finds with the cache, and what streamed."""
    found = []
    for stream in (False, True):
        knn.load.cache_clear()
        data = {"datapath": str(datapath), "stream": stream, "workers": 1, "device": "cpu"}
        values = {name: flag(stream) if callable(flag) else flag for name, flag in flags.items()}
        found.append(command.run(recipe(recipe_type, **data, **model, **values)))
    return found


def test_eval_leaves_out_what_it_cannot_read(images, tmp_path, capsys):
    run(images, tmp_path / "ft", **PLAIN, epochs=1, source_size=16)
    damage(images / "test" / "green" / "02.png")
    weights = {"eval": True, "pretrained_weights": str(tmp_path / "ft" / "checkpoint.pt")}
    capsys.readouterr()
    cached, streamed = (
        run(images, tmp_path / f"out{stream}", **weights, stream=stream, workers=1)
        for stream in (False, True)
    )
    assert cached["images"] == streamed["images"] == 23
    for name in ("test_top1", "test_loss", "test_balanced_accuracy"):
        assert streamed[name] == pytest.approx(cached[name], abs=1e-5)
    said = capsys.readouterr().err
    assert "unreadable image green/02.png" in said and ": left out" in said
    assert "left out of the scores: 1 unreadable of 24 images" in said


def test_knn_leaves_out_what_it_cannot_read(damaged, tmp_path):
    model = {"checkpoints": (str(save(tmp_path / "m.pt", damaged)),)}
    cached, streamed = measured(knn, Knn, model, damaged, nb_knn=(5,), linear=True)
    assert (streamed["train_images"], streamed["test_images"]) == (59, 23)
    for row, other in zip(cached["results"], streamed["results"], strict=True):
        assert row == other


def test_linear_probes_leave_out_what_they_cannot_read(damaged, tmp_path):
    model = {"model": str(save(tmp_path / "m.pt", damaged)), "random_weights": False}
    cached, streamed = measured(linear, Linear, model, damaged, linear_c=(1.0,))
    assert cached["results"] == streamed["results"] and streamed["test_images"] == 23
    flags = {"probe": "sgd", "lr": (0.01,), "epochs": 1}
    _, streamed = measured(linear, Linear, model, damaged, **flags)
    assert streamed["test_images"] == 23
    _, streamed = measured(linear, Linear, model, damaged, linear_c=(0.1, 1.0))
    assert streamed["status"] == "finished"


def test_labels_leave_out_what_they_cannot_read(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "draw_label_efficiency", lambda *words: None)
    model = {"model": str(save(tmp_path / "m.pt", damaged)), "fractions": (100.0,)}
    folders = {"output_dir": lambda stream: str(tmp_path / f"{stream}")}
    flags = {"draws": 1, "nb_knn": 5, **folders}
    cached, streamed = (
        [json.loads(line)["top1"] for line in Path(found["rows"]).read_text().splitlines()]
        for found in measured(labels, Labels, model, damaged, **flags)
    )
    assert cached == streamed and len(cached) == 5


def test_robustness_leaves_out_what_it_cannot_read(images, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "draw_robustness", lambda *words: None)
    run(images, tmp_path / "ft", **PLAIN, epochs=1, source_size=16)
    damage(images / "test" / "green" / "02.png")
    model = {"model": str(tmp_path / "ft"), "corruptions": ("fog",), "severities": (1,)}
    folders = {"output_dir": lambda stream: str(tmp_path / f"{stream}")}
    cached, streamed = measured(robustness, Robustness, model, images, **folders)
    assert cached["clean"]["top1"] == streamed["clean"]["top1"]
    assert cached["clean"]["nll"] == pytest.approx(streamed["clean"]["nll"], abs=1e-4)


def test_nothing_that_can_be_measured_on_is_one_line(images, tmp_path):
    run(images, tmp_path / "ft", **PLAIN, epochs=1, source_size=16)
    for path in (images / "test").rglob("*.png"):
        damage(path)
    weights = {"eval": True, "pretrained_weights": str(tmp_path / "ft" / "checkpoint.pt")}
    with pytest.raises(ValueError, match="none of 24 images can be read"):
        run(images, tmp_path / "out", **weights, stream=True, workers=1)
