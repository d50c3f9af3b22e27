"""Sets of many files, of huge images, on other systems and into log files: what is said, once, and what is done."""

import ast
import io
import os
import sys
import types
import zipfile

import numpy as np
import pytest
from conftest import ROOT, recipe
from PIL import Image

from multicrop.commands import check as checking
from multicrop.commands import pretrain, visualise
from multicrop.config.check import Recipe
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.visualise import Recipe as Visualising
from multicrop.datasets import _bytes, _console, _folders, image_folder
from multicrop.datasets._images import LoadOptions
from multicrop.engine.run import differences
from multicrop.registry import source

LIMIT = "MULTICROP_MAX_IMAGE_PIXELS"


def write(path, seed=0, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_classes(folder, each=3):
    for c, name in enumerate(("cat", "dog")):
        for i in range(each):
            write(folder / name / f"{i}.png", 10 * c + i)


def load(root, split="train", name="image_folder", **options):
    return source(name).load(root, split, LoadOptions(**options))


# Time


class Counted(list):
    """Labels that count how often they are looked at."""

    looks = 0

    def __iter__(self):
        for label in super().__iter__():
            Counted.looks += 1
            yield label


def test_holding_out_looks_at_each_image_once_however_many_classes():
    classes = tuple(f"class{i:04d}" for i in range(2000))
    names = [f"{name}/{i}.png" for name in classes for i in range(3)]
    labels = Counted(label for label in range(len(classes)) for _ in range(3))
    whole = _folders.Listing(ROOT, names, labels, classes)
    assert len(image_folder._held_out(whole)) == 2000
    assert Counted.looks == len(names)


def test_each_folder_is_read_once(tmp_path, monkeypatch):
    for i in range(30):
        write(tmp_path / f"class{i}" / "0.png"), write(tmp_path / f"class{i}" / "1.png")
    read, scandir = [], os.scandir

    def counting(folder):
        if str(folder).startswith(str(tmp_path)):  # not the files of the program
            read.append(os.fspath(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counting)
    assert len(source("image_folder").listing(tmp_path, "train").names) == 30
    assert len(read) == len(set(read)) == 31


# Portability


def test_memory_without_sysconf(monkeypatch):
    """As on Windows: psutil says it, and without psutil nothing is streamed unasked."""
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert _folders._memory() is None
    assert not _folders._is_too_large(
        _folders.Listing(ROOT, ["a"] * 10**7, None, ()), LoadOptions(1000)
    )
    memory = types.SimpleNamespace(total=1 << 20)
    psutil = types.SimpleNamespace(virtual_memory=lambda: memory)
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert _folders._memory() == 1 << 20


def test_a_zip_of_windows_has_folders(tmp_path):
    write_classes(tmp_path / "in" / "train")
    write_classes(tmp_path / "in" / "test", each=2)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("photos\\train\\cat\\"), b"")
        for path in sorted((tmp_path / "in").rglob("*.png")):
            name = str(path.relative_to(tmp_path / "in")).replace("/", "\\")
            archive.write(path, f"photos\\{name}")
    for split, count in (("train", 6), ("test", 4)):
        found = load(tmp_path / "photos.zip", split)
        assert found.classes == ("cat", "dog") and len(found) == count
    assert checking.recognise(str(tmp_path / "photos.zip"), None)[1] == "image_folder"


# What is said


def test_progress_bars_are_made_in_two_places():
    """They know whether somebody looks; engine/ and datasets/ may not import each other."""
    made = []
    for path in ROOT.glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tqdm", "tqdm.tqdm"):
                made.append(str(path.relative_to(ROOT)))
    assert sorted(made) == ["datasets/_console.py", "engine/progress.py"]


@pytest.mark.parametrize("count", [10, 5000])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_file_gets_at_most_one_line_of_a_progress_bar(monkeypatch, count, terminal):
    out = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", out)
    with _console.progress(count, "decoding photos") as bar:
        for _ in range(count):
            bar.update()
            bar.refresh()
    said = out.getvalue()
    if terminal:
        assert "decoding photos" in said and "\r" in said
    else:
        assert said == ("decoding photos: 5000 images\n" if count == 5000 else "")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unreadable_image_is_said_once(tmp_path, capsys, stream):
    for split in ("train", "test"):
        write_classes(tmp_path / split)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    for split in ("train", "test", "train"):
        load(tmp_path, split, stream=stream, workers=1).pixels[:]
    assert capsys.readouterr().err.count("cat/1.png") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_class_without_a_readable_image_is_refused_alike(tmp_path, stream):
    for split in ("train", "test"):
        write_classes(tmp_path / split)
    for file in (tmp_path / "train" / "dog").iterdir():
        file.write_bytes(b"no image")
    wanted = r"none of the images of the class of dog/0\.png is readable: mend them or remove the"
    with pytest.raises(ValueError, match=wanted):
        load(tmp_path, stream=stream, workers=1).pixels[:]
    assert checking.run(Recipe(str(tmp_path), workers=1))["train"]["unreadable_classes"] == ["dog"]


# Huge images


@pytest.fixture
def small_limit(monkeypatch):
    """Pillow refuses what has more than 2 x 100 pixels, here and in the workers."""
    monkeypatch.setenv(LIMIT, "200")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    _bytes.allow_pixels.cache_clear()
    yield
    _bytes.allow_pixels.cache_clear()


@pytest.mark.parametrize("stream", [False, True])
def test_a_huge_image_is_left_out_with_the_setting_that_allows_it(
    tmp_path, capsys, monkeypatch, small_limit, stream
):
    for i in range(4):
        write(tmp_path / f"{i}.png", i)
    write(tmp_path / "4.png", 4, side=20)
    load(tmp_path, name="images", stream=stream, workers=1, source_size=8).pixels[:]
    said = capsys.readouterr().err
    assert f"4.png (400 pixels are more than 200: set {LIMIT}=400 if you trust the file)" in said
    # What it says helps, also where the cache holds that the image was left out
    monkeypatch.setenv(LIMIT, "400")
    _bytes.allow_pixels.cache_clear()
    again = load(tmp_path, name="images", stream=stream, workers=1, source_size=8)
    again.pixels[:]
    assert len(again) == 5 and "more than" not in capsys.readouterr().err


def test_a_limit_that_is_no_number_is_one_line(tmp_path, monkeypatch):
    write(tmp_path / "0.png")
    monkeypatch.setenv(LIMIT, "lots")
    with pytest.raises(ValueError, match=f"{LIMIT}=lots is no number of pixels"):
        load(tmp_path, name="images")


# Names of data sets, as people spell them

SHORT = {
    "device": "cpu", "image_size": 16, "source_size": 16, "embed_dim": 24, "num_layers": 1, "num_heads": 2,
    "out_dim": 16, "local_crops_number": 2, "batch_size_per_gpu": 4, "epochs": 1, "knn_freq": 0,
}  # fmt: skip


def test_any_spelling_of_a_data_set_goes_through_and_resumes(tmp_path):
    for i in range(8):
        write(tmp_path / "in" / f"{i}.png", i, side=16)
    flags = {**SHORT, "datapath": str(tmp_path / "in"), "output_dir": str(tmp_path / "run")}
    for spelling in ("Images", "images"):
        result = pretrain.run(recipe(Pretraining, dataset=spelling, **flags))
        assert result["status"] == "finished"
    shown = visualise.run(recipe(Visualising, run=str(tmp_path / "run"), images=2))
    assert shown["status"] == "finished"


@pytest.mark.parametrize(
    "name, value, changed",
    [("dataset", "cifar10", 0), ("dataset", "svhn", 1), ("arch", "cifar10", 1)],
)
def test_only_a_data_set_may_be_spelled_otherwise(name, value, changed):
    assert len(differences({name: "CIFAR-10"}, {name: value}, ())) == changed
