"""Every file of a run folder cut, emptied, flipped or gone: the same command ends as if nothing had been, or refuses.

Refusing is one line that names the file, and changes none of them. Nothing may be wrong in silence.
"""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import recipe, rows_of, same
from PIL import Image

from multicrop.commands import finetune, pretrain
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import checkpoint

TRIES = int(os.environ.get("MULTICROP_FAULTS", 1))  # flips of each file; `make faults` has more
NETWORK = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "image_size": 16, "device": "cpu"}
SSL = {
    **NETWORK, "dataset": "images", "out_dim": 32, "head_hidden_dim": 16, "head_bottleneck_dim": 8, "epochs": 3,
    "local_crops_number": 2, "warmup_epochs": 1, "warmup_teacher_temp_epochs": 1, "knn_freq": 0, "log_freq": 4,
    "batch_size_per_gpu": 4, "saveckp_freq": 1,
}  # fmt: skip
TUNE = {
    **NETWORK, "dataset": "image_folder", "scratch": True, "batch_size": 8, "epochs": 3, "ra": 1, "log_freq": 4,
    "val_fraction": 0.25,
}  # fmt: skip
STAGES = {"pretrain": (pretrain, Pretraining, SSL), "finetune": (finetune, Finetuning, TUNE)}


def run(stage: str, images: Path, folder: Path, **values) -> dict:
    command, recipe_type, settings = STAGES[stage]
    given = {**settings, **values, "datapath": str(images), "output_dir": str(folder)}
    return command.run(recipe(recipe_type, **given))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    numbers = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir()
        for index in range(16):
            pixels = numbers.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module", params=STAGES)
def stopped(request, images, tmp_path_factory) -> tuple[str, Path, Path]:
    """A stage, its whole run, and one that stopped between two rows of metrics with two checkpoints on the disk."""
    folder = tmp_path_factory.mktemp(request.param)
    whole, stopped = folder / "whole", folder / "stopped"
    run(request.param, images, whole)
    for steps in (3, 6):
        run(request.param, images, stopped, max_steps=steps)
    return request.param, whole, stopped


def weights(folder: Path) -> dict:
    state = checkpoint.load(folder / "checkpoint.pt").state
    return {name: state[name] for name in ("student", "teacher", "model") if name in state}


def cut(content: bytes, _: random.Random) -> bytes:
    return content[: len(content) // 2]


def empty(_content: bytes, _: random.Random) -> bytes:
    return b""


def flipped(content: bytes, numbers: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
    return bytes(damaged)


def gone(_content: bytes, _: random.Random) -> None:
    return None


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, empty, flipped, gone])
def test_every_file_of_a_run(stopped, images, tmp_path, capsys, record_property, damage):
    stage, whole, folder = stopped
    tries = 0
    numbers = random.Random(damage.__name__)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert {"checkpoint.pt", "checkpoint_previous.pt", "metrics.jsonl", "recipe.yaml"} <= {*names}
    for name in names:
        for number in range(TRIES if damage is flipped else 1):
            tries += 1
            copy = tmp_path / f"{name}-{number}"
            shutil.copytree(folder, copy)
            content = damage((folder / name).read_bytes(), numbers)
            (copy / name).unlink()
            if content is not None:
                (copy / name).write_bytes(content)
            try:
                result = run(stage, images, copy)
            except (ValueError, OSError) as error:
                assert "\n" not in str(error) and str(copy) in str(error), (name, error)
                continue
            assert result["status"] == "finished", name
            same(weights(copy), weights(whole))
            steps = [row["step"] for row in rows_of(copy) if "lr" in row]
            lost = {row["step"] for row in rows_of(whole) if "lr" in row} - {*steps}
            said = capsys.readouterr().err
            assert not lost or "lost" in said or "set aside" in said, name
            assert len(steps) == len({*steps}), name
            shutil.rmtree(copy)
    record_property("tries", tries)
