"""multicrop check and pack: what a path holds, packing; and what is said before or instead of a long decoding."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import GOLDEN
from PIL import Image

from multicrop.__main__ import main
from multicrop.commands import check as checking
from multicrop.commands import pack as packing
from multicrop.commands._data import labelled_images
from multicrop.commands._origin import DataOrigin
from multicrop.config.check import Recipe
from multicrop.config.pack import Recipe as Pack
from multicrop.datasets import _cache, _decode
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path, width=40, height=30, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for name, extra in (("cat", 0), ("dog", 1)):
            for i in range(count + extra):
                write(tmp_path / "photos" / split / name / f"{i}.png", 40 + i, 70, i)
    return tmp_path / "photos"


def check(path, **options):
    return checking.run(Recipe(str(path), **options))


def test_a_folder_of_class_folders(photos, capsys):
    (photos / "train" / "dog" / "4.png").write_bytes(
        (photos / "train" / "dog" / "4.png").read_bytes()[:900]
    )
    (photos / "train" / "cat" / "3.png").write_bytes(b"no image")
    found = check(photos, workers=1)
    train, test = found["train"], found["test"]
    assert found["dataset"] == "image_folder" and (train["images"], test["images"]) == (9, 5)
    assert train["per_class"] == {"cat": 4, "dog": 5} and (
        train["fewest"],
        train["most"],
        train["classes"],
    ) == (
        4,
        5,
        2,
    )
    assert (
        train["width"] == [40, 41, 44] and train["height"] == [70, 70, 70] and not train["square"]
    )
    assert train["unreadable"] == 2 and test["unreadable"] == 0
    assert [line.split(":")[0] for line in train["unreadable_images"]] == ["cat/3.png", "dog/4.png"]
    said = capsys.readouterr().err
    assert (
        "train: 9 images, 2 classes of 4 to 5; 40..44 (median 41) x 70 px (width x height); 2 unreadable"
        in said
    )
    assert f"python train_ssl.py --dataset image_folder --datapath {photos} --output_dir" in said


def test_headers_alone_do_not_find_a_cut_image(photos):
    (photos / "train" / "dog" / "4.png").write_bytes(
        (photos / "train" / "dog" / "4.png").read_bytes()[:900]
    )
    (photos / "train" / "cat" / "3.png").write_bytes(b"no image")
    assert check(photos, decode=False)["train"]["unreadable"] == 1


def test_the_commands_are_understood_by_the_scripts(photos):
    from multicrop import cli
    from multicrop.config.finetune import Recipe as Finetuning
    from multicrop.config.pretrain import Recipe as Pretraining

    first, second = check(photos, decode=False)["commands"]
    r, f = cli.parse(Pretraining, first.split()[2:]), cli.parse(Finetuning, second.split()[2:])
    assert r.data.dataset == f.data.dataset == "image_folder"
    assert r.data.datapath == str(photos)
    assert f.start.pretrained_weights == r.run.output_dir


def test_images_without_labels_have_the_first_command_only(tmp_path):
    for i in range(3):
        write(tmp_path / "photos" / f"{i}.jpg", 64, 64)
    found = check(tmp_path / "photos")
    assert (
        found["dataset"] == "images"
        and found["train"]["classes"] == 0
        and "no labels" in found["test"]["error"]
    )
    (command,) = found["commands"]
    assert command.startswith("python train_ssl.py --dataset images ")
    assert "--image_size" not in command  # --recipe auto chooses it


def test_a_test_split_that_is_missing_is_said(tmp_path):
    for i in range(3):
        write(tmp_path / "train" / "a" / f"{i}.png")
        write(tmp_path / "valid" / "a" / f"{i}.png")
    shutil.rmtree(tmp_path / "valid" / "a")
    write(tmp_path / "cifar" / "train" / "airplane" / "0.png", 32, 32)
    for name in ("automobile", "truck"):
        write(tmp_path / "cifar" / "train" / name / "0.png", 32, 32)
    found = check(tmp_path / "cifar", decode=False)
    assert found["dataset"] == "cifar10" and "has no test, val" in found["test"]["error"]


def published(root):
    """One folder for each entry that has a layout of its own, and the name by which it is to be known."""
    for name in ("airplane", "automobile", "truck"):
        for split in ("train", "valid", "test"):
            write(root / "cinic10" / split / name / "0.png")
        write(root / "cifar10.png" / "train" / name / "0.png")
    for name in ("aquarium_fish", "pickup_truck", "worm"):
        write(root / "cifar100" / "train" / "super" / name / "0.png")
    for i in range(10):
        write(root / "svhn" / "train" / str(i) / "0.png", 32, 32)
    for i in range(1, 103):
        write(root / "flowers102:kaggle" / "train" / str(i) / "0.png", 4, 4)
    (root / "flowers102:official" / "jpg").mkdir(parents=True)
    for name, values in (
        ("setid", {"trnid": [1], "valid": [1], "tstid": [1]}),
        ("imagelabels", {"labels": [1]}),
    ):
        scipy.io.savemat(root / "flowers102:official" / f"{name}.mat", values)
    write(root / "flowers102:official" / "jpg" / "image_00001.jpg")
    write(root / "domainnet:real" / "real" / "axe" / "a.jpg")
    (root / "domainnet:real" / "real_train.txt").write_text("real/axe/a.jpg 0\n")
    write(root / "chaoyang" / "train" / "a.JPG")
    (root / "chaoyang" / "train.json").write_text(json.dumps([{"name": "train/a.JPG", "label": 0}]))
    write(root / "tiny_imagenet" / "train" / "n01" / "images" / "a.JPEG")
    (root / "tiny_imagenet" / "wnids.txt").write_text("n01\n")
    for i in range(1000):
        (root / "imagenet" / "train" / f"n{i:08d}").mkdir(parents=True)
        shutil.copy(
            root / "svhn" / "train" / "0" / "0.png",
            root / "imagenet" / "train" / f"n{i:08d}" / "a.JPEG",
        )
    shutil.copytree(GOLDEN / "dhvt_lmdb", root / "lmdb")


def test_published_layouts_are_recognised(tmp_path):
    published(tmp_path)
    wanted = {path: path.name.removesuffix(".png") for path in tmp_path.iterdir()}
    assert {path: checking.recognise(str(path), None)[1] for path in wanted} == wanted
    for path, name in wanted.items():
        listing = source(name).listing(str(path), "train")
        assert listing.names and listing.labels is not None, path


@pytest.mark.parametrize(
    "classes, side", [(10, 28), (10, 40), (43, 32)], ids=["MNIST", "digits", "traffic signs"]
)
def test_ones_own_numbered_classes_are_no_published_set(tmp_path, classes, side):
    """It would have other constants, no mirror and another policy, all unsaid."""
    for split in ("train", "test"):
        for number in range(classes):
            write(tmp_path / split / f"{number}" / "0.png", side, side)
    file = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path)
    for path in (tmp_path, file):
        assert checking.recognise(str(path), None)[1] == "image_folder"


def test_binary_files_are_read_at_once(tmp_path, monkeypatch):
    listed = {split: ["", f"{split}_32x32.mat", None] for split in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    for split in listed:
        pixels = np.zeros((32, 32, 3, 2), np.uint8)
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [3]], np.uint8)}
        )
    found = check(tmp_path)
    assert (
        found["dataset"] == "svhn"
        and found["train"]["images"] == 2
        and found["train"]["per_class"]["3"] == 1
    )
    assert "--image_size 32" in found["commands"][0]
    with pytest.raises(ValueError, match="nothing to pack"):
        packing.run(Pack(str(tmp_path), output_dir=str(tmp_path / "out")))


def test_an_archive_is_checked_and_packed(photos, tmp_path):
    pytest.importorskip("lmdb")
    file = shutil.make_archive(str(tmp_path / "photos file"), "gztar", photos)
    found = check(file, workers=1)
    assert (
        found["dataset"] == "image_folder"
        and found["train"]["images"] == 9
        and f"'{file}'" in found["commands"][0]
    )
    packed = packing.run(Pack(file, output_dir=str(tmp_path / "packed")))
    assert packed["commands"][0].startswith(
        f"python train_ssl.py --dataset lmdb --datapath {tmp_path}/packed"
    )
    assert packed["images"] == {"train": 9, "test": 5} and set(packed["bytes"]) == {"train", "test"}
    again = check(tmp_path / "packed", workers=1)
    assert again["dataset"] == "lmdb" and again["train"]["per_class"] == {"cat": 4, "dog": 5}


def test_a_validation_split_is_packed_too(photos, tmp_path):
    pytest.importorskip("lmdb")
    write(photos / "test" / "cat" / "0.png", seed=90)
    packed = packing.run(Pack(str(photos), output_dir=str(tmp_path / "packed")))
    assert packed["images"] == {"train": 9, "test": 1, "val": 5}
    lmdb = source("lmdb")
    assert lmdb.has_validation(tmp_path / "packed")
    val = lmdb.load(tmp_path / "packed", "val")
    assert torch.equal(val.pixels, source("image_folder").load(photos, "val").pixels)
    (tmp_path / "packed" / "test.lmdb").unlink()
    assert not lmdb.has_validation(tmp_path / "packed")  # it is the test split


def test_a_damaged_image_is_left_out_of_a_pack_and_named(photos, tmp_path, capsys):
    pytest.importorskip("lmdb")
    (photos / "train" / "cat" / "1.png").write_bytes(b"no image")
    packed = packing.run(Pack(str(photos), output_dir=str(tmp_path / "packed")))
    assert packed["images"] == {"train": 8, "test": 5}
    assert "left out, not an image or damaged: cat/1.png" in capsys.readouterr().err
    again = check(tmp_path / "packed", workers=1)["train"]
    assert again["per_class"] == {"cat": 3, "dog": 5} and again["unreadable"] == 0


def test_a_pack_of_nothing_but_damaged_images_is_refused(photos, tmp_path):
    pytest.importorskip("lmdb")
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 9 images"):
        packing.run(Pack(str(photos), output_dir=str(tmp_path / "packed")))
    assert not [*(tmp_path / "packed").iterdir()]


def test_the_command_line(photos, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(photos), "--workers", "1"])
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["train"]["images"] == 9


@pytest.mark.parametrize(
    "words, said",
    [
        (("check", "nowhere"), "error: there is no folder nowhere"),
        (("check", "empty"), "holds no images"),
        (("check", "photos", "--dataset", "clipar"), "did you mean 'clipart'"),
        (("check", "photos", "--decod", "false"), "unknown flag --decod; did you mean 'decode'"),
        (("chekc", "photos"), "error: no command is called 'chekc'; did you mean 'check'"),
    ],
)
def test_what_cannot_be_done_is_one_line(photos, capsys, monkeypatch, words, said):
    monkeypatch.chdir(photos.parent)
    (photos.parent / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


# Before a long decoding


def test_an_unlabelled_folder_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    write(tmp_path / "a.png")
    monkeypatch.setattr(_decode, "decode", None)
    with pytest.raises(ValueError, match=r"--dataset images has no labels.*--dataset image_folder"):
        labelled_images(DataOrigin("images", str(tmp_path), None), LoadOptions(source_size=32))


def test_no_room_for_the_cache_says_how_much_and_what_to_do(photos, monkeypatch):
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(
        OSError, match=r"0\.00 GB are needed and 0\.00 GB are free; make room .* --stream true"
    ):
        source("image_folder").load(photos, "train")
    assert (
        len(
            source("image_folder")
            .load(photos, "train", LoadOptions(stream=True, workers=1))
            .pixels[:]
        )
        == 9
    )


def test_why_files_are_decoded_again_is_said(photos, capsys):
    for size in (16, 24, 20, 16):
        source("image_folder").load(photos, "train", LoadOptions(source_size=size))
        said = [line for line in capsys.readouterr().err.splitlines() if "decoded again" in line]
        if size == 20:
            held = "the cache holds it for --source_size 16 and --source_size 24"
            assert said == [f"{photos / 'train'} is decoded again for 20 px: {held}"]
    assert said == []
