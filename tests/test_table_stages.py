"""A table through every stage: check, pretraining, the probe and finetuning, its columns taken over on the way."""

import csv
import shutil
from pathlib import Path

import pytest
from conftest import content_of, recipe, save_content

from multicrop.commands import check, finetune, knn, pretrain, visualise
from multicrop.config.check import Recipe as Check
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.knn import Recipe as Probing
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.visualise import Recipe as Pictures
from multicrop.datasets import _console

TINY = {
    "image_size": 16, "patch_size": 8, "embed_dim": 12, "num_layers": 1, "num_heads": 2, "out_dim": 8,
    "head_hidden_dim": 8, "head_bottleneck_dim": 4, "local_crops_number": 0, "batch_size_per_gpu": 20, "epochs": 1,
}  # fmt: skip
PLAIN = {"aa": False, "cm": False, "mu": False, "re": 0.0, "sd": 0.0, "padding": 1, "ra": 1}


@pytest.fixture
def labels(colours, tmp_path):
    """A table of the class folders `colours`, its paths absolute, its labels under a name that nobody knows."""
    rows = []
    for path in sorted(colours.rglob("*.png")):
        rows.append((path, path.parent.name, path.parent.parent.name))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("photo", "dx", "split"), *rows])
    return tmp_path / "labels.csv"


def test_every_stage_reads_the_table_as_the_first_was_told_to(labels, tmp_path, capsys):
    columns = {"image_column": "photo", "label_column": "dx"}
    report = check.run(Check(str(labels), **columns))
    counts = {"blue": 20, "green": 20, "red": 20}
    assert report["train"]["per_class"] == counts and report["test"]["images"] == 24
    assert "--image_column photo --label_column dx" in report["commands"][0]

    data = {"dataset": "table", "datapath": str(labels), "device": "cpu"}
    folder = str(tmp_path / "ssl")
    first = pretrain.run(recipe(Pretraining, **data, **columns, **TINY, output_dir=folder))
    assert first["status"] == "finished" and first["knn_raw_pixels"] == 100

    knn.load.cache_clear()
    probed = knn.run(recipe(Probing, checkpoints=(folder,), nb_knn=(5,), device="cpu"))
    assert probed["results"][0]["top1"]["5"] == 100  # raw pixels
    assert (probed["train_images"], probed["test_images"]) == (60, 24)

    values = {"pretrained_weights": folder, "epochs": 1, "batch_size": 12, "device": "cpu"}
    ft = str(tmp_path / "ft")
    second = finetune.run(recipe(Finetuning, **values, **PLAIN, output_dir=ft))
    assert second["status"] == "finished"
    assert "label_column: dx" in (tmp_path / "ft" / "recipe.yaml").read_text()
    again = finetune.run(recipe(Finetuning, eval=True, output_dir=ft, device="cpu"))
    assert again["test_top1"] == second["test_top1"]

    pictures = visualise.run(Pictures(folder, images=2))
    assert any(name.endswith("crops.png") for name in pictures["pictures"])


@pytest.mark.parametrize("dataset", ["table", "parquet"])
def test_columns_of_the_weights_images_are_taken_over_where_they_fit_and_that_is_said(
    colours, labels, tmp_path, capsys, dataset
):
    """--eval on other images: with the same columns, and with none of them."""
    columns = {"image_column": "photo", "label_column": "dx"}
    data = {"dataset": dataset, "device": "cpu", "batch_size": 12, "epochs": 1}
    network = {name: TINY[name] for name in ("embed_dim", "num_layers", "num_heads", "patch_size")}
    if dataset == "parquet":
        labels = as_parquet(labels, {"photo": "photo", "dx": "dx", "split": "split"})
    run = {"datapath": str(labels), "output_dir": str(tmp_path / "ft"), "image_size": 16}
    finetune.run(recipe(Finetuning, scratch=True, **data, **columns, **PLAIN, **network, **run))
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir(), other.mkdir()
    ending = labels.suffix
    shutil.copy(labels, same / f"again{ending}")
    if dataset == "parquet":
        names = {"photo": "image", "dx": "label", "split": "split"}
        as_parquet(tmp_path / "labels.csv", names, other / "other.parquet")
    else:
        text = labels.read_text().replace("photo,dx,split", "file,label,split", 1)
        (other / "other.csv").write_text(text)
    weights = {"pretrained_weights": str(tmp_path / "ft"), "eval": True, "dataset": dataset}

    def said_of(path) -> str:
        _console.forget()
        capsys.readouterr()
        out = {"datapath": str(path), "output_dir": str(tmp_path / "out"), "device": "cpu"}
        assert finetune.run(recipe(Finetuning, **weights, **out))["images"] == 24
        return capsys.readouterr().err

    words = "is read as the weights' own images were, --image_column photo --label_column dx"
    assert words in said_of(same / f"again{ending}")
    said = said_of(other / f"other{ending}")
    assert "--label_column dx of the weights' own images is not taken over" in said
    assert "--image_column photo of the weights' own images is not taken over" in said
    assert "is read as the weights' own" not in said_of(labels)


def as_parquet(table, names, file=None):
    """A table of file names as a parquet file that holds the images, its columns called otherwise."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    with open(table, newline="") as opened:
        rows = list(csv.DictReader(opened))
    cells = {name: [row[old] for row in rows] for old, name in names.items()}
    cells[names["photo"]] = [Path(path).read_bytes() for path in cells[names["photo"]]]
    file = file or table.with_name("images.parquet")
    pa.parquet.write_table(pa.table(cells), file)
    return file


def test_an_older_run_without_columns_is_resumed(colours, tmp_path):
    """Its recipe does not have the new settings, which were left open then."""
    data = {"dataset": "image_folder", "datapath": str(colours), "device": "cpu", "knn_freq": 0}
    values = {**data, **TINY, "output_dir": str(tmp_path / "run")}
    pretrain.run(recipe(Pretraining, **values, max_steps=1))
    file = tmp_path / "run" / "checkpoint.pt"
    content = content_of(file)
    for name in ("image_column", "label_column", "split_column", "knn_dataset", "knn_datapath"):
        del content["recipe"][name]
    save_content(content, file)
    assert pretrain.run(recipe(Pretraining, **values))["status"] == "finished"
