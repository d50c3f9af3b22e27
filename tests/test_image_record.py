"""Streamed images: a run compares each with what it has first read of it, and says what it cannot compare."""

import os
import random
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import launch, recipe, same
from faults.test_damage import cut, empty, flipped, gone
from PIL import Image

from benchmarks.checksums import Images
from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.datasets import _decode, _folders
from multicrop.datasets._bytes import content
from multicrop.datasets._convert import Conversion, Form
from multicrop.engine import checkpoint, image_record
from multicrop.engine.image_record import ImageRecord

COUNT, STEPS = 200, 10  # more images than the sample whose pixels are compared; steps of an epoch
SMALL = {
    "embed_dim": 16, "num_layers": 2, "num_heads": 2, "out_dim": 32, "head_hidden_dim": 16, "head_bottleneck_dim": 8,
    "local_crops_number": 1, "epochs": 2, "warmup_epochs": 1, "warmup_teacher_temp_epochs": 1, "knn_freq": 0,
    "log_freq": 1, "dataset": "images", "device": "cpu", "image_size": 8, "batch_size_per_gpu": COUNT // STEPS,
    "stream": True, "workers": 1,
}  # fmt: skip


def noise(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels)


def run(images: Path, folder: Path, **values) -> dict:
    return pretrain.run(
        recipe(Recipe, **{**SMALL, **values, "datapath": str(images), "output_dir": str(folder)})
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """BMP files: all of one size."""
    folder = tmp_path_factory.mktemp("original")
    for number in range(COUNT):
        noise(number).save(folder / f"{number:03d}.bmp")
        os.utime(folder / f"{number:03d}.bmp", (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def runs(original, tmp_path_factory) -> Path:
    """Runs on these images: `whole`, and those that were stopped after 3 steps and after an epoch."""
    folder = tmp_path_factory.mktemp("runs")
    run(original, folder / "whole")
    for steps in (3, STEPS):
        run(original, folder / str(steps), max_steps=steps)
    return folder


def read_by(folder: Path) -> set[int]:
    """The images that a run's record has."""
    blocks, whole = image_record._read(folder / image_record.FILE)
    assert whole
    parts = [np.frombuffer(content, "<u4").reshape(2, -1)[0] for kind, content in blocks[2:]]
    return set(np.concatenate(parts).tolist())


def exchange(images: Path, number: int, same_time: bool) -> None:
    file = images / f"{number:03d}.bmp"
    before = file.stat()
    noise(number + 1000).save(file)
    assert file.stat().st_size == before.st_size
    if same_time:
        os.utime(file, (before.st_atime, before.st_mtime))


def beyond_sample(numbers: set[int]) -> list[int]:
    """Those whose pixels a resumed run does not compare at its start."""
    return sorted(numbers - set((torch.arange(64) * COUNT // 64).tolist()))


@pytest.fixture
def images(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "images")  # with the times


@pytest.fixture
def resumed(runs, tmp_path):
    """A copy of a stopped run."""
    return lambda steps: shutil.copytree(runs / str(steps), tmp_path / "run")


@pytest.mark.parametrize("steps", [3, STEPS])
def test_an_exchanged_image_of_the_same_name_size_and_time_is_noticed_when_read_again(
    images, resumed, steps
):
    folder = resumed(steps)
    number = beyond_sample(read_by(folder))[3]
    exchange(images, number, same_time=True)
    with pytest.raises(ValueError, match=f"image {number:03d}.bmp has changed") as refused:
        run(images, folder)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=f"image {number:03d}.bmp has changed"):
        run(images, folder)
    stored = checkpoint.load(folder / "checkpoint.pt").metadata
    assert stored.step < 2 * STEPS


def test_put_back_it_goes_on_bit_equal(images, original, resumed, runs):
    folder = resumed(STEPS)
    exchange(images, 101, same_time=True)
    with pytest.raises(ValueError, match="Put back"):
        run(images, folder)
    shutil.copy2(original / "101.bmp", images)
    run(images, folder)
    same(*(checkpoint.load(each / "checkpoint.pt").state for each in (folder, runs / "whole")))


def test_what_was_read_is_compared_also_after_a_start_that_had_the_images_in_the_cache(
    images, tmp_path, monkeypatch, capsys
):
    """Without --stream the machine's memory decides."""
    folder = tmp_path / "run"
    for too_large, steps in ((True, STEPS), (False, STEPS + 1)):
        monkeypatch.setattr(_folders, "_is_too_large", lambda *_, answer=too_large: answer)
        run(images, folder, stream=None, max_steps=steps)
    exchange(images, 101, same_time=True)
    monkeypatch.setattr(_folders, "_is_too_large", lambda *_: True)
    with pytest.raises(ValueError, match=r"image 101.bmp has changed"):
        run(images, folder, stream=None)
    assert "has no checksums" not in capsys.readouterr().err


def test_exchanged_images_are_taken_as_they_are_where_that_is_asked_for(images, resumed, capsys):
    folder = resumed(STEPS)
    exchange(images, 101, same_time=True)
    run(images, folder, resume_changed_data=True)
    assert "streamed images are taken as they are now" in capsys.readouterr().err
    assert checkpoint.load(folder / "checkpoint.pt").metadata.step == 2 * STEPS
    assert read_by(folder) == {*range(COUNT)}


def test_an_image_that_was_not_read_before_is_said_where_its_time_tells(images, resumed, capsys):
    folder = resumed(3)
    number = beyond_sample({*range(COUNT)} - read_by(folder))[0]
    exchange(images, number, same_time=False)
    run(images, folder)
    said = capsys.readouterr().err
    assert f"1 of {COUNT} image files were written or copied since this run began" in said
    assert f"{number:03d}.bmp: 0 are compared" in said and "1 were not read before" in said


def test_copied_images_have_other_times_and_the_run_goes_on(images, resumed, runs, capsys):
    folder = resumed(3)
    for file in images.iterdir():
        os.utime(file, (2e9, 2e9))
    run(images, folder)
    said = capsys.readouterr().err
    read = len(read_by(runs / "3"))
    assert f"{COUNT} of {COUNT} image files" in said and f"{read} are compared" in said
    same(*(checkpoint.load(each / "checkpoint.pt").state for each in (folder, runs / "whole")))


@pytest.mark.parametrize("damage", [cut, empty, flipped, gone])
def test_what_is_lost_of_the_record_is_said(original, resumed, runs, capsys, damage):
    folder = resumed(STEPS)
    file = folder / image_record.FILE
    content = damage(file.read_bytes(), random.Random(0))
    if content is None:
        file.unlink()
        with pytest.raises(ValueError, match="is damaged"):
            image_record.verify(file)
    else:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            image_record.verify(file)
    run(original, folder)
    assert f"of {COUNT} images that were read before are lost" in capsys.readouterr().err
    same(*(checkpoint.load(each / "checkpoint.pt").state for each in (folder, runs / "whole")))
    assert read_by(folder) == {*range(COUNT)}


def test_a_run_of_an_older_version_says_that_it_begins_to_compare(original, resumed, capsys):
    folder = resumed(STEPS)
    stored = checkpoint.load(folder / "checkpoint.pt")
    object.__setattr__(stored.metadata, "images_read", None)
    checkpoint.save(stored, folder / "checkpoint.pt")
    run(original, folder)
    assert "they are compared from now on" in capsys.readouterr().err


def test_ranks_that_read_different_files_of_one_image(tmp_path, monkeypatch):
    images = Images(9)
    record = ImageRecord(tmp_path, images, "files", None)
    images.new = np.array([2, 5], np.uint32), np.array([7, 8], np.uint32)
    assert record.write() == 2
    other = np.array([5, 6], np.uint32), np.array([9, 9], np.uint32)
    monkeypatch.setattr("multicrop.engine.ranks.gather_objects", lambda own, to: [own, other])
    with pytest.raises(ValueError, match=r"image 5 has changed while this run went on"):
        record.write()
    monkeypatch.undo()
    assert ImageRecord(tmp_path, Images(9), "files", 2).write() == 2


def test_other_images_begin_another_record(tmp_path):
    images = Images(9)
    images.new = np.array([2], np.uint32), np.array([7], np.uint32)
    ImageRecord(tmp_path, images, "files", None).write()
    again = Images(9)
    ImageRecord(tmp_path, again, "files", 1)
    assert again.checksums.tolist() == [0, 0, 7, 0, 0, 0, 0, 0, 0]
    ImageRecord(tmp_path, again, "other files", 1)
    assert not again.checksums.any()


def test_checksums_are_of_files_and_of_large_ones_pixels(original, tmp_path, monkeypatch):
    form, file = Form((8, 8), False, Conversion(channels=3)), str(original / "007.bmp")
    data = content(file)
    (tmp_path / "damaged.bmp").write_bytes(data[:60])
    places = [file, [file, 0, len(data), zlib.crc32(data)], str(tmp_path / "damaged.bmp")]
    rows = _decode.decode_rows([*places, str(tmp_path / "gone.bmp")], form, checked=True)
    assert rows.checksums == [zlib.crc32(data), zlib.crc32(data), zlib.crc32(data[:60]), 0]
    monkeypatch.setattr(_decode, "LARGE", 10)
    large = _decode.decode_rows([file], form, checked=True)
    assert large.checksums == [zlib.crc32(rows.pixels[0])]
    assert np.array_equal(large.pixels[0], rows.pixels[0])


@pytest.mark.slow
def test_two_ranks_know_what_either_has_read(images, tmp_path):
    settings = {**SMALL, "batch_size_per_gpu": COUNT // STEPS // 2, "datapath": images}
    settings |= {"output_dir": tmp_path / "run", "stream": "true"}
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    launch("pretrain", *words, "--max_steps", "3", ranks=2)
    read = read_by(tmp_path / "run")
    assert len(read) >= 3 * COUNT // STEPS
    number = beyond_sample(read)[2]
    exchange(images, number, same_time=True)
    done = launch("pretrain", *words, ranks=2)
    assert done.returncode != 0 and f"image {number:03d}.bmp has changed" in done.stderr
