"""Streamed images: the cache's pixels, whoever decodes them and whenever, and the same batches and runs from them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, recipe, rows_of
from PIL import Image

from benchmarks import streaming
from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.datasets import _folders, _stream
from multicrop.datasets._images import LoadOptions
from multicrop.engine.batches import Batches
from multicrop.registry import source

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def photos(tmp_path):
    """Three classes of JPEG and PNG files of many sizes; the test split has one image of each."""
    random = np.random.default_rng(0)
    for c, name in enumerate(("a", "b", "c")):
        for i in range(7):
            height, width = random.integers(20, 200, 2)
            smooth = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize(
                (width, height)
            )
            folder = tmp_path / ("test" if i == 6 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            smooth.save(folder / f"{i}.{'png' if (i + c) % 3 == 0 else 'jpg'}")
    return tmp_path


def load(root, split="train", **options):
    return source("image_folder").load(root, split, LoadOptions(source_size=24, **options))


def break_file(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("split", ["train", "test"])
def test_streamed_pixels_are_those_of_the_cache(photos, split):
    cached, streamed = (
        load(photos, split, stream=False),
        load(photos, split, stream=True, workers=2),
    )
    assert isinstance(streamed.pixels, _stream.Streamed) and isinstance(cached.pixels, torch.Tensor)
    assert streamed.pixels.shape == cached.pixels.shape and streamed.pixels.dtype == torch.uint8
    assert torch.equal(streamed.pixels[:], cached.pixels)
    assert torch.equal(streamed.labels, cached.labels) and streamed.classes == cached.classes
    assert streamed.mean == cached.mean and streamed.std == cached.std


def test_square_images_of_one_side_stay_as_they_are(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(
                tmp_path / name / f"{i}.png"
            )
    found = load(tmp_path, stream=True, workers=1)
    assert found.pixels.shape[-1] == 8 and torch.equal(
        found.pixels[:], load(tmp_path, stream=False).pixels
    )


@pytest.mark.parametrize(
    "index", [3, slice(2, 9, 3), torch.tensor([5, 5, 0, 17]), torch.tensor([[1, 2], [3, 1]])]
)
def test_indexes_like_a_tensor(photos, index):
    pixels = load(photos, stream=True, workers=2).pixels
    assert torch.equal(pixels[index], load(photos, stream=False).pixels[index])
    empty = pixels[torch.empty(0, dtype=torch.int64)]
    assert empty.shape == (0, 3, 24, 24) and empty.dtype == torch.uint8


def test_batches_are_the_resident_ones_at_any_step_with_any_number_of_workers(photos):
    cached = load(photos, stream=False)

    def batches(pixels, **options):
        return Batches(pixels, cached.labels, 2, seed=3, device=CPU, accumulate=2, **options)

    wanted = [
        [(b.images.clone(), b.labels) for b in batches(cached.pixels).step(step)]
        for step in range(9)
    ]
    for workers, start in ((1, 0), (2, 0), (3, 5)):
        streaming = batches(load(photos, stream=True, workers=workers).pixels)
        assert not streaming.resident
        for step in range(start, 9):
            for batch, (images, labels) in zip(streaming.step(step), wanted[step], strict=True):
                assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_ranks_share_a_streamed_global_batch(photos):
    pixels, alone = load(photos, stream=True, workers=2).pixels, None
    for world in (1, 2):
        found = torch.empty(4, 3, 24, 24, dtype=torch.uint8)
        for rank in range(world):
            for batch in Batches(
                pixels, None, 4 // world, seed=1, device=CPU, rank=rank, world=world
            ).step(2):
                found[batch.rank_slice] = batch.images
        alone = found if alone is None else alone
    assert torch.equal(found, alone)


def test_an_unreadable_image_is_named_once_and_the_next_of_its_class_takes_its_place(
    photos, capsys
):
    whole = load(photos, stream=False).pixels.clone()
    names = sorted((photos / "train" / "b").iterdir())
    break_file(names[1])
    break_file(names[5])  # the last of its class: the first comes next
    wanted = whole.clone()
    wanted[[7, 11]] = whole[[8, 6]]
    images = source("images").load(
        photos / "train", "train", LoadOptions(source_size=24, stream=True, workers=1)
    )
    images = load(photos, stream=True, workers=2)
    capsys.readouterr()
    for order in (torch.arange(18), torch.arange(18).flip(0)):
        assert torch.equal(images.pixels[order], wanted[order])
    said = capsys.readouterr().err.splitlines()
    assert sum(f"b/{names[1].name} (" in line for line in said) <= 1 and len(said) <= 2


def test_unreadable_images_without_classes(photos, capsys):
    folder = photos / "train" / "a"
    whole = (
        source("images")
        .load(folder, "train", LoadOptions(source_size=24, stream=False))
        .pixels.clone()
    )
    last = sorted(folder.iterdir())[-1]
    break_file(last)
    options = LoadOptions(source_size=24, stream=True, workers=2)
    found = source("images").load(folder, "train", options).pixels
    assert torch.equal(found[-1:], whole[:1])
    assert capsys.readouterr().err.count(f"unreadable image {last.name}") == 1


def test_a_class_of_unreadable_images_is_an_error(photos):
    for path in (photos / "train" / "c").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the images of the class of c/.* is readable"):
        load(photos, stream=True, workers=2)


def test_many_unreadable_images_are_not_all_named(photos, capsys, monkeypatch):
    monkeypatch.setattr(_stream, "NAMED", 2)
    for path in sorted((photos / "train" / "b").iterdir())[:4]:
        break_file(path)
    load(photos, stream=True, workers=2).pixels[:]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unreadable")]
    assert len(said) == 2 and said[1].endswith("no more are named")


def test_what_would_fill_the_memory_is_streamed(photos, capsys, monkeypatch):
    assert isinstance(load(photos).pixels, torch.Tensor)
    monkeypatch.setattr(_folders, "RESIDENT", 1e-9)
    assert isinstance(load(photos).pixels, _stream.Streamed)
    assert (
        "they are streamed from their files (--stream false stores them)" in capsys.readouterr().err
    )
    assert isinstance(load(photos, stream=False).pixels, torch.Tensor)


def test_statistics_are_of_a_sample_spread_over_the_set(photos, monkeypatch):
    monkeypatch.setattr(_stream, "SAMPLE", 6)
    streamed, every_third = load(photos, stream=True), load(photos, stream=False).pixels[::3]
    np.testing.assert_allclose(
        streamed.mean, every_third.double().mean((0, 2, 3)) / 255, atol=1e-12
    )


def test_a_lost_worker_is_an_error(photos):
    pixels = load(photos, stream=True, workers=1).pixels
    pixels[:2]
    (worker,) = pixels._decoders._workers
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    with pytest.raises(ChildProcessError, match="ended"):
        pixels[:2]


def test_workers_ignore_the_signals_of_the_run_and_end_with_the_set(photos):
    pixels = load(photos, stream=True, workers=1).pixels
    pixels[:2]
    (worker,) = pixels._decoders._workers
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        os.kill(worker.process.pid, getattr(signal, name))
    time.sleep(0.1)
    assert len(pixels[:3]) == 3
    del pixels
    assert worker.process.wait(timeout=10) == 0


SHORT = {
    "device": "cpu", "image_size": 16, "source_size": 24, "embed_dim": 24, "num_layers": 1, "num_heads": 2,
    "out_dim": 16, "local_crops_number": 2, "batch_size_per_gpu": 4, "epochs": 2, "knn_freq": 1, "log_freq": 1,
}  # fmt: skip


def run(folder, photos, **flags) -> tuple:
    """The result of a pretraining and the losses that it logged."""
    flags = {**SHORT, **flags, "datapath": str(photos), "output_dir": str(folder)}
    result = pretrain.run(recipe(Recipe, dataset="image_folder", **flags))
    rows = rows_of(folder)
    return result["loss"], result["knn_top1"], [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_streamed_run_is_the_cached_one_also_when_resumed(photos, tmp_path):
    cached = run(tmp_path / "cached", photos, stream=False)
    assert (
        len(cached[2]) == 8 and run(tmp_path / "streamed", photos, stream=True, workers=2) == cached
    )
    run(tmp_path / "resumed", photos, stream=True, workers=2, max_steps=3)
    assert run(tmp_path / "resumed", photos, stream=True, workers=1) == cached


@pytest.mark.slow
def test_the_benchmark_measures(tmp_path):
    found = streaming.measure(
        streaming.Recipe(files=16, batch=4, source_size=64, workers=(1,), epochs=1, repeats=1)
    )
    assert set(found["images_per_second"]) == {"1"} and len(found["memory_mb_by_epoch"]) == 1
    for row in found["images_per_second"].values():
        assert (
            set(row) == {"streamed", "pillow", "torchvision", "decoder", "of_decoder"}
            and min(row.values()) > 0
        )
    assert (
        found["files"]["count"] == 16
        and 256 <= found["files"]["width"][0] <= found["files"]["width"][1] <= 500
    )


def test_processes_fit_the_limit_of_open_files(photos):
    """64 files and 40 processes, in a process of its own: the limit cannot be raised again."""
    words = [sys.executable, "-c", FEW_FILES, str(photos)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "8 decoding processes in place of 40: at most 64 files may be open" in done.stderr


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source
images = source("image_folder").load(sys.argv[1], "train", LoadOptions(stream=True, workers=40))
images.pixels[:]
"""
