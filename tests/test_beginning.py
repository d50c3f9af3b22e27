"""commands/_beginning.py: stage one from a file's backbone, from all of another run, and on images that changed."""

import shlex
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import launch, result_of, rows_of
from PIL import Image

from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint
from multicrop.weights import pretrained

FLAGS = shlex.split(
    "--recipe published --arch vit --embed_dim 24 --num_layers 2 --num_heads 2 --image_size 16 --out_dim 16 "
    "--local_crops_number 2 --batch_size_per_gpu 4 --warmup_epochs 0 --knn_freq 0 --log_freq 1 --momentum_teacher 0.5"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets of images, and a finished run on the first."""
    root = tmp_path_factory.mktemp("beginning")
    make_images(root / "images", 12)
    make_images(root / "others", 12, seed=1)
    run(root, "--epochs", 2, "--output_dir", root / "first", *FLAGS)
    return root


def run(root, *flags, images="images"):
    """A run of stage one, and what it said."""
    return launch("train_ssl.py", "--dataset", "images", "--datapath", root / images, *flags)


def make_images(folder, count, seed=0, prefix="image"):
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{index:02d}.png")


def state(folder):
    return checkpoint.load(folder / "checkpoint.pt")


def test_a_run_begins_from_the_backbone_of_another(folder, tmp_path):
    new = tmp_path / "new"
    few = [flag for flag in FLAGS if flag not in ("--arch", "vit")]
    start = ("--pretrained_weights", folder / "first", "--output_dir", new, "--epochs", 1)
    process = run(folder, *start, *few, "--lr", 0, "--min_lr", 0, "--max_steps", 1, images="others")
    result_of(process)
    assert "tensors loaded by name" in process.stderr
    old, now = state(folder / "first"), state(new)
    for name, value in old.state["teacher"].items():
        if name.startswith("backbone."):
            assert torch.equal(now.state["student"][name], value), name
    assert now.metadata.ancestry == [
        {
            "weights": str(folder / "first"), "kind": "ssl", "dataset": "images", "images": 12, "step": 6, "epoch": 2.0,
        }
    ]  # fmt: skip


def test_the_network_is_that_of_the_file_but_for_what_is_stated(folder, tmp_path):
    flags = shlex.split(
        "--recipe published --batch_size_per_gpu 4 --warmup_epochs 0 --max_steps 1 --out_dim 16"
    )
    process = run(
        folder, "--pretrained_weights", folder / "first/checkpoint.pt", *flags, "--drop_path_rate", 0.2,
        "--output_dir", tmp_path,
    )  # fmt: skip
    result_of(process)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert [recipe[name] for name in ("embed_dim", "num_layers", "image_size")] == [24, 2, 16]
    assert recipe["drop_path_rate"] == 0.2
    assert "--embed_dim 24" in process.stderr  # said


def test_an_extended_run_goes_on_from_the_whole_state_and_leaves_the_old_one(folder, tmp_path):
    before = (folder / "first/checkpoint.pt").read_bytes()
    command = ("--pretrained_weights", folder / "first", "--extend_epochs", 4)
    whole = run(folder, *command, "--output_dir", tmp_path / "whole", "--log_freq", 1)
    assert result_of(whole)["status"] == "finished"
    assert "warm restart with --epochs 4, --lr 5e-05, --warmup_epochs 0.2" in whole.stderr
    assert (folder / "first/checkpoint.pt").read_bytes() == before

    recipe = yaml.safe_load((tmp_path / "whole/recipe.yaml").read_text())
    assert [recipe[name] for name in ("epochs", "lr", "freeze_last_layer")] == [4, 5e-5, 0]
    assert recipe["out_dim"] == 16 and recipe["weight_decay"] == recipe["weight_decay_end"]
    assert adam_steps(tmp_path / "whole") == 6 + 12  # its moments came along

    # Interrupted and resumed, also when the old run is gone.
    shutil.copytree(folder / "first", tmp_path / "first")
    command = ("--pretrained_weights", tmp_path / "first", "--extend_epochs", 4)
    parts = (*command, "--output_dir", tmp_path / "parts", "--log_freq", 1)
    result_of(run(folder, *parts, "--max_steps", 5))
    shutil.rmtree(tmp_path / "first")
    result_of(run(folder, *parts))
    losses = {
        name: [row["loss"] for row in rows_of(tmp_path / name)] for name in ("whole", "parts")
    }
    assert losses["whole"] == losses["parts"] and len(losses["whole"]) == 12
    assert state(tmp_path / "parts").metadata.ancestry[0]["step"] == 6


def adam_steps(folder):
    """How often Adam has moved the backbone."""
    moments = state(folder).state["optimizer"]["state"].values()
    return max(int(moment["step"]) for moment in moments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--extend_epochs", 2], "name it by --pretrained_weights"),
        (["--extend_epochs", 2, "--pretrained_weights", "first", "--epochs", 3], "leave --epochs out"),
        (["--extend_epochs", 2, "--pretrained_weights", "first", "--out_dim", 8], "--out_dim 8 (there 16): leave"),
        (["--extend_epochs", 2, "--pretrained_weights", "first", "--embed_dim", 48], "not fit --embed_dim 48 (there"),
        (["--extend_epochs", 2, "--pretrained_weights", "first/checkpoint0002.pt"], "was kept without"),
        (["--pretrained_weights", "nowhere.pt"], "no checkpoint at"),
    ],
)  # fmt: skip
def test_what_cannot_begin_says_so_in_a_line(folder, tmp_path, flags, message):
    flags = [folder / flag if str(flag).startswith("first") else flag for flag in flags]
    process = run(folder, *flags, "--output_dir", tmp_path)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert message in process.stderr.splitlines()[-1]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_parts_that_a_key_may_name_are_networks(folder):
    """The run's objective has weights, too, and sees no images."""
    assert "objective" in state(folder / "first").state
    for key in ("bla", "objective"):
        with pytest.raises(
            ValueError, match=rf"has no '{key}'; choose --checkpoint_key among"
        ) as no:
            pretrained.read(folder / "first", key)
        offered = str(no.value).partition(" among ")[2]
        assert sorted(offered.split(", ")) == ["student", "teacher"]


def test_an_unfinished_run_is_not_extended(folder, tmp_path):
    shutil.copytree(folder / "first", tmp_path / "first")
    stored = state(tmp_path / "first")
    metadata = stored.metadata.at(4, 4 / 3)
    checkpoint.save(Checkpoint(metadata, stored.state), tmp_path / "first/checkpoint.pt")
    start = ("--pretrained_weights", tmp_path / "first", "--extend_epochs", 2)
    process = run(folder, *start, "--output_dir", tmp_path / "new")
    assert process.returncode == 2 and "Traceback" not in process.stderr
    words = "checkpoint.pt is at step 4 of 6: the command that began it finishes it"
    assert words in process.stderr.splitlines()[-1]
    assert not (tmp_path / "new/checkpoint.pt").exists()


def test_a_run_whose_images_changed_begins_again_with_what_it_has_learned(folder, tmp_path):
    images, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(folder / "images", images)
    command = ("--epochs", 2, "--output_dir", out, *FLAGS)
    result_of(run(tmp_path, *command))
    before = state(out)
    make_images(images, 4, seed=2, prefix="new")
    refused = run(tmp_path, *command)
    assert refused.returncode == 2 and "--resume_changed_data" in refused.stderr.splitlines()[-1]

    process = run(tmp_path, *command, "--resume_changed_data", "--max_steps", 1)
    assert result_of(process)["steps"] == 8  # 2 epochs of 16 images
    assert "(12 before, 16 now)" in process.stderr and "begin again at step 0" in process.stderr
    assert adam_steps(out) == 6 + 1
    kept = state(out / "before_1")
    assert kept.metadata.step == 6
    for name, value in before.state["student"].items():
        assert torch.equal(kept.state["student"][name], value)

    # The same command goes on, and the images are those that it knows now.
    assert result_of(run(tmp_path, *command, "--resume_changed_data"))["step"] == 8
    assert not (out / "before_2").exists()
    assert state(out).metadata.ancestry[0]["weights"] == str(out / "before_1")


@pytest.mark.parametrize("command", [["train_ssl.py"], ["finetune.py", "--scratch"]])
def test_a_folder_that_no_data_set_would_read_is_refused(folder, tmp_path, command):
    """Without --dataset the drawn set would be trained on in its place."""
    photos = folder / "images"
    process = launch(*command, "--datapath", photos, "--output_dir", tmp_path / "run")
    assert process.returncode == 2 and not (tmp_path / "run").exists()
    assert f"--datapath {photos}: shapes, which is drawn and reads no folder" in process.stderr
    assert f"multicrop check {photos} says which" in process.stderr
