"""multicrop check --verify: a flipped bit is found in every kind of file that the program writes, wherever it lies."""

import os
import random
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_damage import flipped

from multicrop.commands import check
from multicrop.config.check import Recipe
from multicrop.datasets import _cache
from multicrop.datasets._images import LoadOptions
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.engine.run import Run
from multicrop.registry import source
from multicrop.weights.teacher_maps import MapShape, Writer

TRIES = 6 * int(os.environ.get("MULTICROP_FAULTS", 1))  # flips of each file


def verify(path: Path) -> dict:
    return check.run(Recipe(str(path), verify=True))


def photos(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for split, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (folder / split / label).mkdir(parents=True)
        for index in range(8):
            pixels = numbers.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / label / f"{index}.png")
    return folder


# What is verified, and the files that are damaged: made by the program itself


def image_cache(folder: Path, monkeypatch) -> tuple[Path, list[Path]]:
    monkeypatch.setenv("MULTICROP_CACHE", str(folder / "cache"))
    images = photos(folder / "photos")
    _cache.load_cached(images, ["train/a/0.png", "train/b/1.png"], 16)
    return images, sorted((folder / "cache").glob("*/*"))


def packed(folder: Path, _) -> tuple[Path, list[Path]]:
    pytest.importorskip("lmdb")
    from multicrop.datasets._pack import pack

    listing = source("image_folder").listing(photos(folder / "photos"), "train")
    pack({"train": listing}, folder / "packed")
    return folder / "packed", [folder / "packed" / "train.lmdb"]


def teacher_maps(folder: Path, _) -> tuple[Path, list[Path]]:
    facts = ("dataset", "side", "pixels", "labels", "teacher", "size", "batch_norm")
    fingerprint = {**dict.fromkeys(facts, "x"), "images": 6}
    maps = {"s1": MapShape(4, 1, 3, 3), "s2": MapShape(2, 1, 2, 2)}
    with Writer(folder / "maps", fingerprint, maps) as writer:
        for _ in range(2):
            writer.append([torch.randn(3, *shape.array_shape) for shape in maps.values()])
    return folder / "maps", sorted((folder / "maps").iterdir())


def run_folder(folder: Path, _) -> tuple[Path, list[Path]]:
    """Of images that are streamed."""
    run = Run(folder / "run", {"lr": 0.5})
    images = photos(folder / "photos")
    pixels = source("images").load(images, "train", LoadOptions(source_size=8, stream=True)).pixels
    run.compare_images(pixels, {"files": "hash"}, 0)
    pixels[:5]
    run.open(0, {})
    metadata = Metadata("ssl", 0)
    for step in range(1, 5):
        run.log(step, loss=step / 3, lr=0.1)
        run.save(metadata.at(step, 1.0), {"weight": torch.randn(9)})
    run.keep(metadata.at(4, 1.0), {"weight": torch.randn(9)}, "checkpoint0001.pt")
    run.keep(metadata.at(4, 1.0), {"weight": torch.randn(9)}, "best.pt")
    run.close()
    files = [path for path in (folder / "run").iterdir() if path.name != "recipe.yaml"]
    return folder / "run", sorted(files)


KINDS = (image_cache, packed, teacher_maps, run_folder)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_flipped_bit_is_found(make, tmp_path, monkeypatch, capsys, record_property):
    place, files = make(tmp_path, monkeypatch)
    result = verify(place)
    assert result["whole"] > 0 and result["unchecked"] == 0
    said = capsys.readouterr().err
    assert "damaged" not in said
    numbers, tries, silent = random.Random(0), 0, []
    for file in files:
        content = file.read_bytes()
        for _ in range(TRIES):
            damaged = flipped(content, numbers)
            file.write_bytes(damaged)
            tries += 1
            try:
                verify(place)
                silent.append((file.name, damaged))
            except ValueError as error:
                assert str(error).endswith(": the lines above say what to do")
            lines = [line for line in capsys.readouterr().err.splitlines() if "damaged: " in line]
            assert all(str(file.parent) in line for line in lines)
            assert file.read_bytes() == damaged, "it has changed something"
        file.write_bytes(content)
    record_property("tries", tries)
    record_property("silent", len(silent))
    assert silent == []


def test_a_file_alone_and_folders_of_several(tmp_path, monkeypatch):
    run, _ = run_folder(tmp_path / "a", monkeypatch)
    shutil.rmtree(tmp_path / "a" / "photos")
    maps, _ = teacher_maps(tmp_path / "b", monkeypatch)
    assert verify(run / "best.pt")["whole"] == verify(maps)["whole"] == 1
    assert verify(tmp_path)["whole"] == 9
    (run / "best.pt").write_bytes(flipped((run / "best.pt").read_bytes(), random.Random(1)))
    with pytest.raises(ValueError, match=r"1 of 9 are damaged"):
        verify(tmp_path)


def test_formats_of_others_are_said_to_have_no_checksum(tmp_path, capsys):
    photos(tmp_path)
    torch.save(
        {"weight": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    torch.save({"weight": torch.ones(3)}, tmp_path / "others.pth")
    (tmp_path / "notes.txt").write_text("x")
    result = verify(tmp_path)
    assert (result["whole"], result["unchecked"], result["others"]) == (
        1,
        1,
        {".png": 32, ".txt": 1},
    )
    said = capsys.readouterr().err
    assert f"no checksum: {tmp_path / 'old.pth'}" in said
    assert "others.pth (the CRC-32 of its members)" in said
    assert "compared as they are decoded, not here: 32 .png" in said
    assert "without checksums: 1 .txt" in said


def test_what_cannot_be_looked_at_is_not_passed_over(tmp_path, monkeypatch, capsys):
    """A folder that may not be entered, a link that leads nowhere, a link to a folder."""
    run, _ = run_folder(tmp_path / "all", monkeypatch)
    (run / "checkpoint0001.pt").unlink()
    (run / "checkpoint0001.pt").symlink_to(tmp_path / "gone.pt")
    (run / "closed").mkdir()
    (run / "linked").symlink_to(tmp_path, target_is_directory=True)
    scandir = os.scandir  # root may enter any folder

    def closed(path):
        if str(path) == str(run / "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match="2 of 9 are damaged or cannot be read"):
        verify(tmp_path)
    said = capsys.readouterr().err
    assert f"not there: {run / 'checkpoint0001.pt'} is a link that leads nowhere" in said
    assert f"cannot be read: {run / 'closed'}: Permission denied" in said
    assert f"not entered: {run / 'linked'}, a link to a folder" in said


def test_a_path_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        verify(tmp_path / "x")


def test_a_large_file_takes_little_memory(tmp_path):
    weights = {"weight": torch.zeros(10_000_000)}
    checkpoint.save(Checkpoint(Metadata("ssl", 1), weights), tmp_path / "large.pt")
    del weights
    tracemalloc.start()
    try:
        verify(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8e6 < (tmp_path / "large.pt").stat().st_size
    finally:
        tracemalloc.stop()
