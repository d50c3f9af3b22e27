"""Images inside parquet files and Hugging Face's data sets: the pixels of their files, stored, streamed and packed."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from conftest import recipe, rows_of
from PIL import Image

from multicrop.commands import check, pack, pretrain
from multicrop.config.check import Recipe as Check
from multicrop.config.pack import Recipe as Pack
from multicrop.config.pretrain import Recipe
from multicrop.datasets import _console, _decode
from multicrop.datasets._cache import cache_folder
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
NAMES = ["cat", "dog", "cow"]
COUNTS = {"train": 30, "test": 6}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    _console.forget()  # each test is a process of its own


def picture(i: int) -> bytes:
    """A PNG file of noise."""
    pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def numbers(split: str) -> range:
    first = 0 if split == "train" else COUNTS["train"]
    return range(first, first + COUNTS[split])


def pixels_of(split: str) -> torch.Tensor:
    """uint8 (N, 3, 8, 8)."""
    images = [np.asarray(Image.open(io.BytesIO(picture(i)))) for i in numbers(split)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def cells(split: str, column: str = "image") -> dict:
    """Bytes, and labels in words."""
    return {
        column: [picture(i) for i in numbers(split)],
        "label": [NAMES[i % 3] for i in numbers(split)],
    }


@pytest.fixture
def plain(tmp_path):
    """A file for each split, in row groups of seven rows."""
    root = tmp_path / "plain"
    root.mkdir()
    for split in COUNTS:
        pq.write_table(pa.table(cells(split)), root / f"{split}.parquet", row_group_size=7)
    return root


@pytest.fixture(scope="module")
def hugging_face():
    """The package, which a checkout's folder of the same name is not."""
    package = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    if not hasattr(package, "load_from_disk"):
        pytest.skip("Hugging Face's datasets is not installed")
    return package


def data_set(package, split):
    """One of Hugging Face's, whose labels count named classes."""
    features = {"image": package.Image(), "label": package.ClassLabel(names=NAMES)}
    return package.Dataset.from_dict(cells(split), features=package.Features(features))


@pytest.fixture
def saved(tmp_path, hugging_face):
    """What save_to_disk and to_parquet write."""
    both = hugging_face.DatasetDict({split: data_set(hugging_face, split) for split in COUNTS})
    with contextlib.redirect_stderr(io.StringIO()):
        both.save_to_disk(tmp_path / "saved")
        both["train"].save_to_disk(tmp_path / "one")
        for split in COUNTS:
            (tmp_path / "files").mkdir(exist_ok=True)
            both[split].to_parquet(tmp_path / "files" / f"{split}-00000-of-00001.parquet")
    return tmp_path


def load(name, root, split="train", columns=None, **options):
    return source(name).with_columns(columns or {}).load(root, split, LoadOptions(**options))


# Parquet


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("given", [".", "train.parquet", "test.parquet"])
def test_parquet_gives_the_pixels_of_the_files(plain, given, stream):
    for split in COUNTS:
        images = load("parquet", plain / given, split, stream=stream, workers=2)
        assert torch.equal(images.pixels[:], pixels_of(split))
        assert [images.classes[label] for label in images.labels] == cells(split)["label"]
        assert images.classes == ("cat", "cow", "dog")


def test_streamed_bytes_are_copied_once_and_again_when_the_file_changes(plain, monkeypatch):
    first = load("parquet", plain, stream=True, workers=1)
    copies = sorted(cache_folder().glob("plain-bytes-*/images.bin"))
    assert len(copies) == 1 and not list(cache_folder().glob("*/pixels.bin"))
    assert torch.equal(load("parquet", plain, stream=True, workers=1).pixels[:3], first.pixels[:3])
    assert sorted(cache_folder().glob("plain-bytes-*/images.bin")) == copies
    table = pa.table(cells("test"))
    pq.write_table(table, plain / "train.parquet")
    assert torch.equal(load("parquet", plain, stream=True, workers=1).pixels[:], pixels_of("test"))
    assert sorted(cache_folder().glob("plain-bytes-*/images.bin")) != copies
    assert len(list(cache_folder().glob("plain-bytes-*/images.bin"))) == 1


def test_a_second_read_decodes_nothing(plain, monkeypatch):
    first = load("parquet", plain).pixels
    monkeypatch.setattr(_decode, "decode", None)
    assert torch.equal(load("parquet", plain).pixels, first)
    assert not list(cache_folder().rglob("images.bin*"))


def test_one_file_holds_out_a_tenth_by_name_or_follows_a_column(tmp_path, capsys):
    pq.write_table(pa.table(cells("train", "jpg")), tmp_path / "all.parquet")
    train, test = (load("parquet", tmp_path / "all.parquet", split) for split in COUNTS)
    assert len(train) == 27 and test.labels.tolist() and len(test) == 3
    assert capsys.readouterr().err.count("images from column 'jpg', labels from 'label'") == 1
    words = ["test" if i < 5 else "train" for i in range(30)]
    table = pa.table({**cells("train"), "fold": words})
    pq.write_table(table, tmp_path / "all.parquet")
    columns = {"split_column": "fold"}
    assert len(load("parquet", tmp_path / "all.parquet", "test", columns)) == 5


def test_an_image_that_is_missing_or_damaged_is_left_out(tmp_path, capsys):
    table = cells("train")
    table["image"][3], table["image"][4] = None, b"no image"
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    pq.write_table(pa.table(cells("test")), tmp_path / "test.parquet")
    assert len(load("parquet", tmp_path)) == 28
    assert "skipped 2 unreadable images of 30" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"file": ["a.png"], "label": [1]},
            r"no column of bytes \(it has file, label\).*--dataset table",
        ),
        ({"image": [b"x"], "label": [[1]]}, "is not one label"),
    ],
)
def test_a_parquet_file_of_something_else(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=words) as caught:
        load("parquet", tmp_path)
    assert "\n" not in str(caught.value)


def test_damage_is_one_line(plain):
    content = (plain / "train.parquet").read_bytes()
    (plain / "train.parquet").write_bytes(content[:200])
    with pytest.raises(ValueError, match=r"train\.parquet cannot be read as parquet") as caught:
        load("parquet", plain)
    assert "\n" not in str(caught.value)


def test_without_pyarrow(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        ValueError, match="parquet files need the package pyarrow: pip install pyarrow"
    ):
        load("parquet", plain)


def test_check_and_pack(plain, tmp_path):
    result = check.run(Check(str(plain)))
    assert result["dataset"] == "parquet" and result["train"]["images"] == 30
    assert result["train"]["unreadable"] == 0 and result["test"]["width"] == [8, 8, 8]
    pack.run(Pack(str(plain), str(tmp_path / "packed")))
    assert torch.equal(load("lmdb", tmp_path / "packed").pixels, pixels_of("train"))


def test_a_resumed_run_goes_on_bit_equal(plain, tmp_path):
    """Streamed: their order and pixels are those of a run that was never stopped."""
    values = {
        "dataset": "parquet", "datapath": str(plain), "image_size": 16, "embed_dim": 12, "num_layers": 1,
        "num_heads": 2, "out_dim": 8, "local_crops_number": 1, "batch_size_per_gpu": 6, "epochs": 2, "knn_freq": 0,
        "stream": True, "workers": 1, "device": "cpu", "log_freq": 1,
    }  # fmt: skip
    whole = recipe(Recipe, **values, output_dir=str(tmp_path / "whole"))
    pretrain.run(whole)
    for most in (3, None):
        pretrain.run(recipe(Recipe, **values, output_dir=str(tmp_path / "two"), max_steps=most))
    losses = [[row["loss"] for row in rows_of(tmp_path / name)] for name in ("whole", "two")]
    assert losses[0] == losses[1] and len(losses[0]) == 10


# Hugging Face's data sets


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"), [("hf", "saved"), ("hf", "files"), ("parquet", "files")]
)
def test_what_hugging_face_writes(saved, name, folder, stream):
    for split in COUNTS:
        images = load(name, saved / folder, split, stream=stream, workers=2)
        assert torch.equal(images.pixels[:], pixels_of(split))
        assert images.classes == tuple(NAMES)  # in their order, not the alphabet's
        assert images.labels.tolist() == [i % 3 for i in numbers(split)]


def test_one_split_alone(saved):
    train, test = (load("hf", saved / "one", split) for split in COUNTS)
    assert (len(train), len(test)) == (27, 3)
    assert check.recognise(str(saved / "one"), None)[1] == "hf"
    assert check.recognise(str(saved / "saved"), None)[1] == "hf"
    assert check.recognise(str(saved / "files"), None)[1] == "parquet"


def test_paths_in_place_of_bytes(tmp_path, hugging_face):
    (tmp_path / "0.png").write_bytes(picture(0))
    features = hugging_face.Features({"image": hugging_face.Image()})
    paths = {"image": [str(tmp_path / "0.png")]}
    one = hugging_face.Dataset.from_dict(paths, features=features).with_format("arrow")
    pq.write_table(one[:], tmp_path / "a.parquet")  # its cells are {bytes: None, path}
    images = load("parquet", tmp_path / "a.parquet")
    assert torch.equal(images.pixels[0], pixels_of("train")[0]) and images.labels is None


def test_a_name_on_the_hub(hugging_face, monkeypatch):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return hugging_face.DatasetDict({split: data_set(hugging_face, split) for split in COUNTS})

    monkeypatch.setattr(hugging_face, "load_dataset", load_dataset)
    images = load("hf:Somebody/Animals-3:small", "./data", "test")
    assert torch.equal(images.pixels, pixels_of("test"))
    assert set(asked) == {("Somebody/Animals-3", "small")}


def test_a_name_that_the_hub_does_not_have(hugging_face, monkeypatch):
    def load_dataset(name, config):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(hugging_face, "load_dataset", load_dataset)
    with pytest.raises(
        OSError, match="cannot get a/b from Hugging Face's hub: no route; check the name"
    ):
        load("hf:a/b", "./data")


def test_a_damaged_folder_is_one_line(saved):
    state = json.loads((saved / "one" / "state.json").read_text())
    (saved / "one" / "state.json").write_text(json.dumps({**state, "_data_files": 3}))
    with pytest.raises(ValueError, match="cannot be read by Hugging Face's datasets") as caught:
        load("hf", saved / "one")
    assert "\n" not in str(caught.value)


def test_without_the_package_even_in_a_checkout(tmp_path, monkeypatch):
    """Python takes a checkout's folder datasets/ for a package where there is no other."""
    (tmp_path / "state.json").write_text("{}")
    for stand_in in (type(sys)("datasets"), None):
        monkeypatch.setitem(sys.modules, "datasets", stand_in)
        with pytest.raises(ValueError, match="needs the package datasets: pip install datasets"):
            load("hf", tmp_path)
