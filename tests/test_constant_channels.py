"""Channels that do not vary: fluorescence images in green alone, one colour everywhere."""

import math

import numpy as np
import pytest
import torch
from conftest import recipe, rows_of
from finetuning import NETWORK, PLAIN, run
from PIL import Image

from multicrop.commands import knn, pretrain
from multicrop.config.knn import Recipe as Probing
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets import _console
from multicrop.datasets._images import ImageSet, constant_channels
from multicrop.datasets.image_folder import load

ONE_STEP = {"batch_size_per_gpu": 8, "epochs": 1, "local_crops_number": 2, "out_dim": 16}


def write(root, others: int | None):
    """Two classes, dim and bright in green; red and blue are `others` everywhere, or all three where it is None."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name, brightest in (("dim", 100), ("bright", 250)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((16, 16, 3), others or 9, np.uint8)
                if others is not None:
                    pixels[:, :, 0] = pixels[:, :, 2] = others
                    pixels[:, :, 1] = random.integers(0, brightest, (16, 16))
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module", params=[0, 7, None], ids=["black", "grey", "all"])
def images(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("images"), request.param)


def test_what_is_constant():
    assert constant_channels((0.0, 0.2, 0.0)) == (0, 2)
    assert constant_channels((3e-10, 0.2, 0.1)) == (0,)  # rounding of sums
    assert constant_channels((0.003, 0.2, 0.1)) == (0,)  # noise of JPEG
    assert constant_channels((0.003, 0.02, 0.0025)) == ()  # dim images
    assert constant_channels((0.02, 0.25, 0.1)) == ()
    assert constant_channels((0.0,)) == (0,) and constant_channels((3e-10,) * 3) == (0, 1, 2)


def test_it_is_scaled_as_the_channel_that_varies_most():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images = ImageSet(pixels, None, (), (0.0, 0.5, 0.1), (0.0, 0.2, 0.1))
    assert images.std == (0.2, 0.2, 0.1) and images.constant == (0,)
    assert ImageSet(pixels, None, (), (0.1,) * 3, (0.0,) * 3).std == (1.0, 1.0, 1.0)


def test_both_splits_are_normalised_alike(images):
    train, test = (load(images, split) for split in ("train", "test"))
    assert train.std == test.std and train.mean == test.mean and min(train.std) > 0.01


def test_stage_one_trains_and_its_probes_measure(images, tmp_path):
    settings = {**ONE_STEP, **NETWORK, "image_size": 16, "patch_size": 4, "device": "cpu"}
    result = pretrain.run(
        recipe(
            Pretraining,
            dataset="image_folder",
            datapath=str(images),
            output_dir=str(tmp_path),
            **settings,
        )
    )
    assert result["status"] == "finished" and math.isfinite(result["loss"])
    probed = knn.run(recipe(Probing, checkpoints=(str(tmp_path),), nb_knn=(3,), device="cpu"))
    assert len(probed["results"]) == 3  # raw pixels, random weights, the checkpoint


def test_stage_two_trains(images, tmp_path):
    result = run(images, tmp_path, epochs=1, batch_size=6, aa=True)
    assert result["status"] == "finished" and math.isfinite(result["test_loss"])
    assert all(math.isfinite(row["loss"]) for row in rows_of(tmp_path) if "loss" in row)


def test_a_teacher_sees_them(images, tmp_path):
    run(images, tmp_path / "teacher", epochs=1, batch_size=6, **PLAIN)
    options = {"distillation": "soft", "teacher": str(tmp_path / "teacher")}
    result = run(images, tmp_path / "student", epochs=1, batch_size=6, **PLAIN, **options)
    assert math.isfinite(result["loss"])


def test_it_is_said_once(tmp_path, capsys):
    images = write(tmp_path / "images", 0)
    _console.forget()
    for name in ("a", "b"):
        run(images, tmp_path / name, max_steps=1, batch_size=6, **PLAIN)
    line = "channels red and blue of 3 do not vary in the training images"
    assert capsys.readouterr().err.count(line) == 1
