"""--knn_dataset and --knn_datapath: the online k-NN of a run whose own images have no labels, or other ones."""

import numpy as np
import pytest
import torch
from conftest import recipe, rows_of
from PIL import Image

from multicrop.commands import knn, pretrain
from multicrop.commands._data import pretraining_images
from multicrop.config.knn import Recipe as Knn
from multicrop.config.pretrain import Recipe

TINY = {
    "image_size": 16, "patch_size": 8, "embed_dim": 12, "num_layers": 1, "num_heads": 2, "out_dim": 8,
    "head_hidden_dim": 8, "head_bottleneck_dim": 4, "local_crops_number": 0, "batch_size_per_gpu": 16, "epochs": 2,
    "max_steps": 2, "knn_freq": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def unlabelled(tmp_path):
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for i in range(32):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run_of(unlabelled, **values):
    return recipe(Recipe, **{**TINY, "dataset": "images", "datapath": str(unlabelled)}, **values)


def test_images_without_labels_are_probed_on_other_ones(unlabelled, colours, tmp_path):
    other = {"knn_dataset": "image_folder", "knn_datapath": str(colours)}
    result = pretrain.run(run_of(unlabelled, **other, output_dir=str(tmp_path / "run")))
    for name in ("knn_raw_pixels", "knn_random_weights", "knn_top1"):
        assert 0 <= result[name] <= 100
    assert result["knn_raw_pixels"] == 100  # three colours
    assert any("knn_top1" in row for row in rows_of(tmp_path / "run"))


def test_the_probe_sees_other_images_in_the_colours_of_the_training_images(unlabelled, colours):
    other = {"knn_dataset": "image_folder", "knn_datapath": str(colours)}
    images, probe = pretraining_images(run_of(unlabelled, **other))
    assert (len(images), len(probe.train), len(probe.test)) == (32, 60, 24)
    assert images.labels is None and probe.train.classes == ("blue", "green", "red")
    assert probe.train.mean == probe.test.mean == images.mean and probe.test.std == images.std


def test_the_flag_wins_over_labels_of_the_images_themselves(colours, unlabelled):
    values = {"dataset": "image_folder", "datapath": str(colours)}
    _, own = pretraining_images(recipe(Recipe, **TINY, **values))
    _, other = pretraining_images(recipe(Recipe, **TINY, **values, knn_dataset="shapes"))
    assert own.train.classes == ("blue", "green", "red") and len(other.train.classes) == 10


def test_the_probe_changes_nothing_of_the_training_and_may_change_on_resume(
    unlabelled, colours, tmp_path
):
    plain = run_of(unlabelled, output_dir=str(tmp_path / "plain"))
    pretrain.run(plain)
    other = {"knn_dataset": "image_folder", "knn_datapath": str(colours)}
    probed = {"output_dir": str(tmp_path / "probed"), "log_freq": 1}
    first = {**probed, "max_steps": 1}
    pretrain.run(
        recipe(Recipe, **{**TINY, "dataset": "images", "datapath": str(unlabelled), **first})
    )
    pretrain.run(run_of(unlabelled, **other, **probed))
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("plain", "probed")
    ]
    students = [
        state["state"]["student"] if "state" in state else state["student"] for state in states
    ]
    assert students[0].keys() == students[1].keys()
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_without_labels_the_run_says_what_would_give_them(unlabelled, capsys):
    assert pretraining_images(run_of(unlabelled))[1] is None
    said = capsys.readouterr()
    assert "no online k-NN: images has no labels; --knn_dataset names" in said.err + said.out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"knn_dataset": "images"}, "--knn_dataset images has no labels, and they are needed"),
        ({"knn_dataset": "cifr10"}, "no data set is called 'cifr10'; did you mean 'cifar10'"),
        ({"knn_datapath": "photos"}, "--knn_datapath photos: needs --knn_dataset"),
    ],
)
def test_wrong_flags_are_said_before_anything_is_decoded(unlabelled, values, words, monkeypatch):
    monkeypatch.setattr("multicrop.datasets.images.load", None)
    with pytest.raises(ValueError, match=words):
        pretraining_images(run_of(unlabelled, **values))


@pytest.mark.parametrize(
    ("datapath", "words"),
    [
        (None, "--knn_dataset table: there is no folder data; --knn_datapath says where it is"),
        ("nowhere", "--knn_dataset table --knn_datapath nowhere: there is no folder nowhere$"),
    ],
)
def test_a_data_set_that_is_not_there_names_the_flags_before_anything_is_decoded(
    unlabelled, tmp_path, monkeypatch, datapath, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("multicrop.datasets.images.load", None)
    with pytest.raises(ValueError, match=words):
        pretraining_images(run_of(unlabelled, knn_dataset="table", knn_datapath=datapath))


@pytest.fixture(scope="module")
def probed(colours, tmp_path_factory):
    """A run without labels whose online k-NN had a table of other images."""
    folder = tmp_path_factory.mktemp("probed")
    rows = ["file,label,split"]
    for split in ("train", "test"):
        for path in sorted((colours / split).rglob("*.png")):
            rows.append(f"{path},{path.parent.name},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    other = {"knn_dataset": "table", "knn_datapath": str(folder / "labels.csv")}
    flags = {**TINY, "dataset": "images", "datapath": str(colours / "train")}
    pretrain.run(recipe(Recipe, **flags, **other, output_dir=str(folder / "run")))
    return folder


def test_eval_knn_takes_over_the_data_set_of_the_runs_own_probe(probed, capsys):
    result = knn.run(recipe(Knn, checkpoints=(str(probed / "run"),), device="cpu"))
    assert (result["train_images"], result["test_images"]) == (60, 24)
    assert result["results"][0]["top1"]["10"] == 100  # raw pixels of three colours
    said = capsys.readouterr().err
    assert "--knn_dataset table; --dataset and --datapath say others" in said


def test_flags_go_before_the_data_set_of_the_runs_own_probe(probed, colours):
    run = (str(probed / "run"),)
    flags = {"dataset": "image_folder", "datapath": str(colours / "test"), "device": "cpu"}
    assert knn.run(recipe(Knn, checkpoints=run, **flags))["train_images"] < 24
    with pytest.raises(
        ValueError, match="is a file"
    ):  # a folder is stated, the table is taken over
        path = str(probed / "run" / "recipe.yaml")
        knn.run(recipe(Knn, checkpoints=run, datapath=path, device="cpu"))
