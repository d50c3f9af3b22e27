"""train_ssl.py as users run it: end to end, stopped and resumed, alone and on two ranks, and given bad input."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, launch, recipe, result_of, rows_of, same
from PIL import Image

from multicrop import cli
from multicrop.commands import knn, pretrain
from multicrop.config.flags import from_flags, to_flags
from multicrop.config.knn import Recipe as Probe
from multicrop.config.pretrain import Recipe
from multicrop.datasets import _stopping, shapes
from multicrop.engine import checkpoint, compiled
from multicrop.engine.interrupt import Stopped
from multicrop.ssl.crops import MultiCrop

SMALL = {
    "embed_dim": 24, "num_layers": 2, "num_heads": 2, "out_dim": 32, "head_hidden_dim": 16, "head_bottleneck_dim": 8,
    "local_crops_number": 2, "epochs": 3, "warmup_epochs": 1, "warmup_teacher_temp_epochs": 1, "knn_freq": 0,
    "log_freq": 1, "dataset": "images", "device": "cpu", "image_size": 16,
}  # fmt: skip


def flags(**values) -> list[str]:
    return [
        word
        for key, value in {**SMALL, **values}.items()
        if key != "device"
        for word in (f"--{key}", str(value))
    ]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 random 16 px images without labels."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / f"{i:02d}.png"
        )
    return folder


def run(photos, folder, **values) -> dict:
    """In this process; 6 steps an epoch at the default batch of 4."""
    values = {**SMALL, "batch_size_per_gpu": 4, **values}
    return pretrain.run(recipe(Recipe, datapath=str(photos), output_dir=str(folder), **values))


def networks(folder, name="checkpoint.pt") -> dict:
    stored = checkpoint.load(folder / name)
    states = {key: stored.state[key] for key in ("student", "teacher", "objective", "optimizer")}
    return {"step": stored.metadata.step, **states}


def test_a_run_leaves_a_folder_that_describes_itself(photos, tmp_path):
    result = run(photos, tmp_path, saveckp_freq=2)
    assert (result["status"], result["step"], result["epoch"]) == ("finished", 18, 3.0)
    stored = checkpoint.load(tmp_path / "checkpoint.pt")
    metadata, state = stored.metadata, stored.state
    assert metadata.backbone["arch"] == "vit" and metadata.backbone["embed_dim"] == 24
    assert metadata.data["dataset"] == "images" and metadata.recipe["epochs"] == 3
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert {
        "loss",
        "lr",
        "teacher_temp",
        "target_entropy",
        "feature_rank",
        "images_per_second",
        "data_share",
    } <= set(rows[0])
    assert (tmp_path / "recipe.yaml").exists() and list(tmp_path.glob("events.*"))
    assert sorted(p.name for p in tmp_path.glob("checkpoint0*.pt")) == [
        "checkpoint0002.pt",
        "checkpoint0003.pt",
    ]
    kept = checkpoint.load(tmp_path / "checkpoint0003.pt").state
    assert "optimizer" not in kept and torch.equal(
        kept["teacher"]["backbone.pos_embed"], state["teacher"]["backbone.pos_embed"]
    )


@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_a_resumed_run_is_bit_equal_to_one_never_stopped(photos, tmp_path, step):
    """Drop path is on, so the randomness inside the networks is resumed as well."""
    run(photos, tmp_path / "whole", accumulate=2, batch_size_per_gpu=2)
    part = {"accumulate": 2, "batch_size_per_gpu": 2}
    assert run(photos, tmp_path / "parts", max_steps=step, **part)["step"] == step
    assert networks(tmp_path / "parts")["step"] == step
    result = run(photos, tmp_path / "parts", **part)
    assert (result["step"], result["status"]) == (18, "finished")
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))
    rows = [row["step"] for row in rows_of(tmp_path / "parts")]
    assert rows == list(range(1, 19))


def test_a_finished_run_is_left_as_it_is(photos, tmp_path):
    run(photos, tmp_path, epochs=1)
    before = networks(tmp_path)
    assert run(photos, tmp_path, epochs=1)["step"] == 6
    same(before, networks(tmp_path))


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(photos, tmp_path, capsys):
    run(photos, tmp_path / "whole")
    run(photos, tmp_path / "cut", max_steps=8)
    os.truncate(tmp_path / "cut" / "checkpoint.pt", 1000)
    run(photos, tmp_path / "cut")
    said = capsys.readouterr().err
    assert "damaged" in said and "checkpoint_previous.pt after step 6" in said
    assert said.count("trying the one before it") == 1
    same(networks(tmp_path / "whole"), networks(tmp_path / "cut"))


def test_a_checkpoint_that_could_not_be_kept_is_kept_by_the_resumed_run(photos, tmp_path):
    whole, hindered = tmp_path / "whole", tmp_path / "hindered"
    run(photos, whole, saveckp_freq=1)
    in_the_way = hindered / ".checkpoint0001.pt.partial"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match=r"cannot write .*checkpoint0001\.pt"):
        run(photos, hindered, saveckp_freq=1)
    in_the_way.rmdir()
    run(photos, hindered, saveckp_freq=1)
    kept = [checkpoint.load(folder / "checkpoint0001.pt") for folder in (whole, hindered)]
    same(kept[0].state, kept[1].state)


def test_another_recipe_does_not_resume(photos, tmp_path):
    run(photos, tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"lr 0\.0001 \(now 0\.5\); a global batch of 4 \(now 8\)"):
        run(photos, tmp_path, lr=0.5, batch_size_per_gpu=8)


def test_with_smaller_parts_a_run_keeps_its_global_batch(photos, tmp_path, capsys):
    """As with fewer ranks: a lost node, say."""
    run(photos, tmp_path, max_steps=2)
    result = run(photos, tmp_path, max_steps=4, batch_size_per_gpu=2)
    assert result["step"] == 4
    assert "its global batch is 4 images, so each step is now 2 x 2" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "checkpoint.pt").metadata.identity["global_batch"] == 4


@pytest.mark.parametrize("term", ["koleo", "contrast"])
def test_smaller_parts_in_which_images_are_compared_are_said(term, photos, tmp_path, capsys):
    weight = {f"{term}_weight": 0.1}
    run(photos, tmp_path, max_steps=2, **weight)
    assert "at a time" not in capsys.readouterr().err
    run(photos, tmp_path, max_steps=4, batch_size_per_gpu=2, **weight)
    said = capsys.readouterr().err
    assert f"--{term}_weight: 2 images are compared at a time, before 4" in said


def test_another_number_of_images_does_not_resume(photos, tmp_path):
    """24 and 25 images make as many steps an epoch of 4, but another order."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    run(folder, tmp_path / "r", max_steps=2)
    shutil.copy(folder / "00.png", folder / "more.png")
    with pytest.raises(ValueError, match=r"a number of training images of 24 \(now 25\)"):
        run(folder, tmp_path / "r")


def test_other_images_of_the_same_number_do_not_resume(photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    run(folder, tmp_path / "r", max_steps=2)
    Image.new("RGB", (32, 32), "red").save(folder / "05.png")
    with pytest.raises(ValueError, match=r"training images with the hash \w+ \(now \w+\)"):
        run(folder, tmp_path / "r")


@pytest.mark.parametrize("stream", [False, True])
def test_one_exchanged_image_among_many_does_not_resume(photos, tmp_path, stream):
    """Beyond the few whose pixels are compared one by one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(200):
        shade = (number, 255 - number, 7)
        Image.new("RGB", (32, 32), shade).save(folder / f"{number:03d}.png")
    run(folder, tmp_path / "r", max_steps=2, stream=stream)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(folder / "101.png")
    with pytest.raises(ValueError, match=r"whose (pixels|files' names and sizes) have the hash"):
        run(folder, tmp_path / "r", stream=stream)


def test_max_steps_changes_no_schedule(photos, tmp_path):
    for name, steps in (("whole", None), ("short", 7)):
        run(photos, tmp_path / name, max_steps=steps)
    rows = [rows_of(tmp_path / name)[:7] for name in ("whole", "short")]
    for whole, short in zip(*rows, strict=True):
        assert all(
            whole[k] == short[k] for k in ("loss", "lr", "weight_decay", "momentum", "teacher_temp")
        )


def test_warm_ups_longer_than_the_run_are_shortened_and_said(photos, tmp_path, capsys):
    run(photos, tmp_path, epochs=2, warmup_epochs=30, warmup_teacher_temp_epochs=10)
    said = capsys.readouterr().err
    assert "--warmup_epochs 30 is longer than the run of 2 epochs" in said
    assert "--warmup_teacher_temp_epochs 10 is longer" in said


def spoil(monkeypatch, before=None, after=None):
    """Let something happen just before or just after each optimizer step."""
    good = pretrain.update

    def update(nets, parts, rates, *rest):
        if before:
            before(nets)
        seen = good(nets, parts, rates, *rest)
        return after(nets, seen) if after else seen

    monkeypatch.setattr(pretrain, "update", update)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    photos, tmp_path, monkeypatch, which
):
    """Not a finite teacher poisons the centre as well; none of it may reach the file."""
    run(photos, tmp_path / "r", max_steps=6)
    before = networks(tmp_path / "r")
    spoil(
        monkeypatch, lambda nets: getattr(nets, which).backbone.pos_embed.data.fill_(float("nan"))
    )
    with pytest.raises(FloatingPointError, match="not finite at step 6"):
        run(photos, tmp_path / "r")
    same(before, networks(tmp_path / "r"))


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(photos, tmp_path, monkeypatch):
    """The loss is from before the update, so it is still finite in the step that spoils the weights."""
    run(photos, tmp_path / "r", max_steps=6)
    before = networks(tmp_path / "r")

    def spoilt(nets):
        first = next(nets.student.parameters())
        first.register_hook(lambda grad: torch.full_like(grad, float("nan")))

    spoil(monkeypatch, spoilt)
    with pytest.raises(FloatingPointError, match="loss or its gradient is not finite at step 6"):
        run(photos, tmp_path / "r", max_steps=7)
    same(before, networks(tmp_path / "r"))


def test_the_teacher_follows_and_the_last_layer_thaws(photos, tmp_path, monkeypatch):
    seen = []
    weights = [lambda nets: nets.student.state_dict(), lambda nets: nets.teacher.state_dict()]

    def copy(nets):
        return [{name: value.clone() for name, value in get(nets).items()} for get in weights]

    spoil(
        monkeypatch,
        lambda nets: seen.append(copy(nets)),
        lambda nets, result: seen.append(copy(nets)) or result,
    )
    run(photos, tmp_path, max_steps=8, freeze_last_layer=1, momentum_teacher=0.9, lr=0.1)
    table, layer = "backbone.pos_embed", "head.last_layer.weight_v"
    momenta = [row["momentum"] for row in rows_of(tmp_path)]
    for step, momentum in enumerate(momenta):
        (_, before), (student, after) = seen[2 * step : 2 * step + 2]
        moved = (after[table] - before[table]).abs().max()
        assert moved > 1e-6 or step == 0  # the first step of the warm-up has learning rate 0
        expected = momentum * before[table] + (1 - momentum) * student[table]
        torch.testing.assert_close(after[table], expected, rtol=0, atol=1e-6)
        assert torch.equal(student[layer], seen[0][0][layer]) is (step < 6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("state", ["new", "begun"])
def test_a_signal_before_the_first_step_stops_there(photos, tmp_path, monkeypatch, number, state):
    if state == "begun":
        run(photos, tmp_path, max_steps=2)
    load = pretrain.pretraining_images

    def decoding(settings):
        os.kill(os.getpid(), number)
        return load(settings)

    monkeypatch.setattr(pretrain, "pretraining_images", decoding)
    result = run(photos, tmp_path)
    assert (result["status"], result["step"]) == ("interrupted", 2 if state == "begun" else 0)
    monkeypatch.undo()
    assert run(photos, tmp_path, max_steps=3)["status"] == "stopped"


def test_a_signal_ends_a_long_decoding_between_its_parts(photos, tmp_path, monkeypatch):
    def decoding(settings):
        signal.raise_signal(signal.SIGTERM)
        _stopping.check()
        pytest.fail("it went on")

    monkeypatch.setattr(pretrain, "pretraining_images", decoding)
    with pytest.raises(Stopped):
        run(photos, tmp_path)
    _stopping.check()  # of another command nothing is asked


@pytest.mark.slow
def test_a_signal_finishes_the_step_saves_and_says_resume_me(photos, tmp_path):
    """SIGTERM, to a process of its own; what the other signals do is seen below, and in test_finetune.py."""
    words = [
        sys.executable,
        str(ROOT / "train_ssl.py"),
        *flags(epochs=400),
        "--batch_size_per_gpu",
        "4",
        "--recipe",
        "published",
    ]
    words += ["--datapath", str(photos), "--output_dir", str(tmp_path / "r"), "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # bits depend on the number of threads
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.time() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    result = json.loads(out.strip().splitlines()[-1])
    assert (
        result["status"] == "interrupted"
        and result["step"] == checkpoint.load(tmp_path / "r" / "checkpoint.pt").metadata.step
    )
    steps = result["step"] + 3
    assert run(photos, tmp_path / "r", epochs=400, max_steps=steps)["step"] == steps
    run(photos, tmp_path / "whole", epochs=400, max_steps=steps)
    same(networks(tmp_path / "whole"), networks(tmp_path / "r"))


def moved(folder, start: dict) -> float:
    """The largest change of a weight of the teacher since the start."""
    after = networks(folder)["teacher"]
    return max(
        (after[name] - start[name]).abs().max().item()
        for name in start
        if after[name].is_floating_point()
    )


def near(folder, other, atol: float) -> None:
    for which in ("student", "teacher"):
        ours, theirs = networks(folder)[which], networks(other)[which]
        for name, value in ours.items():
            torch.testing.assert_close(
                theirs[name], value, atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
            )


FAST = {
    "drop_path_rate": 0.0,
    "optimizer": "sgd",
    "lr": 10.0,
    "warmup_epochs": 0,
    "momentum_teacher": 0.5,
}


@pytest.mark.slow
def test_two_ranks_train_as_one_at_the_same_global_batch(photos, tmp_path):
    """Without drop path, so that the only difference is the order in which gradients are summed."""
    common = ["--recipe", "published", "--datapath", photos, "--max_steps", 6]
    run(photos, tmp_path / "start", **{**FAST, "lr": 0.0, "min_lr": 0.0}, max_steps=1)
    two = launch("train_ssl.py", *flags(**FAST), *common, "--batch_size_per_gpu", 2, "--output_dir", tmp_path / "two",
                 ranks=2)  # fmt: skip
    assert result_of(two)["step"] == 6 and len(two.stdout.strip().splitlines()) == 1
    assert run(photos, tmp_path / "one", **FAST, max_steps=6)["status"] == "stopped"
    assert moved(tmp_path / "one", networks(tmp_path / "start")["teacher"]) > 1e-2
    near(tmp_path / "one", tmp_path / "two", atol=1e-5)
    resumed = run(photos, tmp_path / "two", **FAST, max_steps=8)
    assert resumed["step"] == 8  # on one rank what two began


@pytest.mark.slow
@pytest.mark.parametrize(
    "published",
    [
        "--arch vit --dataset CIFAR10 --image_size 32 --patch_size 4 --local_crops_number 8 "
        "--local_crops_scale 0.2 0.5 --global_crops_scale 0.7 1. "
        "--out_dim 1024 --batch_size_per_gpu 256 --mlp_head_in 192",
        "--arch vit --dataset Tiny_Imagenet --image_size 64 --patch_size 8 --local_crops_number 8 "
        "--local_crops_scale 0.2 0.4 --global_crops_scale 0.5 1. "
        "--out_dim 1024 --batch_size_per_gpu 256 --mlp_head_in 192",
    ],
)
def test_the_published_commands_work(published, tmp_path):
    """On a set of the right layout, the first by two ranks; the batch is cut to what that set holds."""
    side = 32 if "CIFAR10" in published else 64
    for split, count in (("train", 8), ("test" if side == 32 else "val", 4)):
        for label in ("n01", "n02"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    words = [
        *published.split(),
        "--datapath",
        tmp_path / "data",
        "--output_dir",
        tmp_path / "r",
        "--max_steps",
        1,
    ]
    words += ["--batch_size_per_gpu", 4]
    if side == 32:
        result = result_of(launch("train_ssl.py", *words, ranks=2))
    else:
        result = pretrain.run(cli.parse(Recipe, [*map(str, words), "--device", "cpu"]))
    assert result["step"] == 1 and 0 <= result["knn_top1"] <= 100


def test_the_online_k_nn_is_that_of_the_probe(tmp_path, monkeypatch):
    load = functools.partial(shapes.load, train_images=400, test_images=100)
    monkeypatch.setattr(shapes, "DATASET", dataclasses.replace(shapes.DATASET, load=load))
    result = run(
        "data",
        tmp_path,
        dataset="shapes",
        knn_freq=1,
        knn_images=200,
        batch_size_per_gpu=64,
        epochs=1,
    )
    words = [str(tmp_path), "--max_train_images", "200", "--nb_knn", "20", "--device", "cpu"]
    knn.load.cache_clear()
    probed = knn.run(cli.parse(Probe, words))
    knn.load.cache_clear()
    assert (probed["train_images"], probed["test_images"]) == (200, 100)
    first, *_, last = rows_of(tmp_path)
    names = ("knn_raw_pixels", "knn_random_weights", "knn_top1")
    for name, row in zip(names, probed["results"], strict=True):
        assert result[name] == pytest.approx(row["top1"]["20"], abs=1e-3)
    assert 0 < result["knn_top1"] < 100
    assert {"step", "time", *names[:2]} == set(first) and first["step"] == 0
    assert last["knn_top1"] == result["knn_top1"]


def test_the_weights_that_a_run_starts_from_are_not_called_random(colours, tmp_path):
    labelled = {"dataset": "image_folder", "batch_size_per_gpu": 10, "epochs": 1, "knn_freq": 1}
    run(colours, tmp_path / "first", **labelled)
    weights = str(tmp_path / "first")
    result = run(colours, tmp_path / "second", pretrained_weights=weights, **labelled)
    assert "knn_start_weights" in result and "knn_random_weights" not in result


def test_baselines_are_measured_once_and_change_no_weights(colours, tmp_path, monkeypatch, capsys):
    """The resumed run has them from the rows of its first part."""
    labelled = {"dataset": "image_folder", "batch_size_per_gpu": 10, "epochs": 2}
    run(colours, tmp_path / "unprobed", **labelled)
    run(colours, tmp_path / "parts", knn_freq=1, max_steps=4, **labelled)
    monkeypatch.setattr(pretrain, "online_baselines", None)
    capsys.readouterr()
    result = run(colours, tmp_path / "parts", knn_freq=1, **labelled)
    same(networks(tmp_path / "unprobed"), networks(tmp_path / "parts"))
    (row,) = (row for row in rows_of(tmp_path / "parts") if "knn_raw_pixels" in row)
    shown = []
    for name in ("knn_raw_pixels", "knn_random_weights"):
        assert row["step"] == 0 and result[name] == row[name]
        shown.append(f"{name} {row[name]:.4g}")
    assert f"{', '.join(shown)}, knn_top1 {result['knn_top1']:.4g}" in capsys.readouterr().err
    assert "knn_raw_pixels" not in rows_of(tmp_path / "unprobed")[0]


@pytest.mark.parametrize("values", [{"precision": "bf16"}, {"optimizer": "lars"}, {"use_bn_in_head": True},
                                    {"arch": "timm:resnet18", "embed_dim": None, "num_layers": None, "num_heads": None},
                                    {"local_crops_number": 0}, {"teacher_drop_path": True}])  # fmt: skip
def test_variants_run(photos, tmp_path, values):
    result = run(photos, tmp_path, max_steps=2, **values)
    assert result["step"] == 2 and np.isfinite(result["loss"])


@pytest.mark.slow
def test_compiled_networks_train_alike(photos, tmp_path, monkeypatch):
    """Traced forward and backward, run without the C++ compiler, which takes minutes for graphs of any size."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    run(photos, tmp_path / "start", **{**FAST, "lr": 0.0, "min_lr": 0.0}, max_steps=1)
    for name in ("plain", "compiled"):
        run(photos, tmp_path / name, max_steps=4, compile=name == "compiled", **FAST)
    assert moved(tmp_path / "plain", networks(tmp_path / "start")["teacher"]) > 1e-2
    near(tmp_path / "plain", tmp_path / "compiled", atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"datapath": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"arch": "vitt"}, "did you mean 'vit'"),
        (
            {"arch": "timm:resnet_18", "embed_dim": None, "num_layers": None, "num_heads": None},
            "resnet18",
        ),
        ({"dataset": "imagess"}, "did you mean 'images'"),
        ({"patch_size": 5}, "patch size 5 does not divide image size 16"),
        ({"patch_size": 16}, "cannot take crops of 8 px"),
        ({"num_heads": 5}, "heads"),
        ({"mlp_head_in": 7}, "--mlp_head_in 7, but vit gives 24 features"),
        ({"batch_size_per_gpu": 64}, "lower the batch size to at most 24"),
        ({"objective": "byol"}, "known: dino"),
        ({"device": "cuda"}, "sees no CUDA device"),
        ({"precision": "fp16"}, "needs a CUDA device"),
    ],
)
def test_bad_values_are_one_line(photos, tmp_path, values, expected):
    if values.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    values = {
        **SMALL,
        "batch_size_per_gpu": 4,
        "datapath": str(photos),
        "output_dir": str(tmp_path),
        **values,
    }
    with pytest.raises((ValueError, OSError)) as error:
        pretrain.run(recipe(Recipe, **values))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"max_steps": 0}, "--max_steps 0: must be at least 1"),
        ({"knn_images": 0}, "--knn_images 0: must be at least 1"),
        ({"source_size": -32}, "--source_size -32: must be at least 1"),
        ({"head_hidden_dim": 0}, "--head_hidden_dim 0: must be at least 1"),
        (
            {"global_crops_scale": (0.5, 1.5)},
            "--global_crops_scale 0.5 1.5: must be shares of the area",
        ),
        (
            {"local_crops_scale": (0.5, 0.2)},
            "--local_crops_scale 0.5 0.2: must be a lower and an upper bound",
        ),
        ({"image_size": 33}, "must be even"),
        ({"seed": -1}, "must not be negative"),
        ({"saveckp_freq": -1}, "--saveckp_freq -1: must not be negative"),
        ({"weight_decay": -0.1}, "--weight_decay -0.1: must be finite and not negative"),
        ({"min_lr": -1e-6}, "--min_lr -1e-06: must be finite and not negative"),
        ({"lr": float("nan")}, "--lr nan: must be finite"),
        ({"teacher_temp": 0.0}, "must be positive"),
        ({"center_momentum": 7.0}, "--center_momentum 7.0: must be within 0 and 1"),
        ({"drop_path_rate": 1.0}, "--drop_path_rate 1.0: must be within 0 and 1, and not 1"),
        ({"blur": (1.0, 0.1, 1.5)}, "--blur 1.0 0.1 1.5: must be within 0 and 1"),
        ({"blur_sigma": (2.0, 0.1)}, "--blur_sigma 2.0 0.1: must be a lower and an upper bound"),
        ({"grayscale": -0.1}, "must be within 0 and 1"),
    ],
)
def test_recipes_check_themselves(values, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        recipe(Recipe, **values)


def test_the_flags_of_the_crops_are_multi_crops_own_values_and_reach_it():
    published = MultiCrop(32, 16, 8, (0.5, 1.0), (0.2, 0.4), (0.5,), (0.2,))
    assert MultiCrop.from_recipe(Recipe(), (0.5,), (0.2,)) == published
    words = "--blur_sigma 0.1 0.5 --blur 0.3 0.2 0.1 --jitter 0.4 --grayscale 0 --solarise 1"
    given = cli.parse(Recipe, words.split())
    crop = MultiCrop.from_recipe(given, (0.5,), (0.2,))
    assert (crop.sigma, crop.blur) == ((0.1, 0.5), (0.3, 0.2, 0.1))
    assert (crop.jitter, crop.grayscale, crop.solarise) == (0.4, 0.0, 1.0)
    stored = from_flags(Recipe, {**to_flags(given), "a flag of another version": 1})
    assert MultiCrop.from_recipe(stored, (0.5,), (0.2,)) == crop


def test_an_unwritable_output_is_one_line(photos, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="choose another --output_dir"):
        run(photos, blocked / "run")


@pytest.mark.parametrize(
    "values",
    [
        {"arch": "timm:resnet_18", "embed_dim": None, "num_layers": None, "num_heads": None},
        {"patch_size": 5},
        {"output_dir": "blocked/run"},
        {"dataset": "imagess"},
        {"objective": "byol"},
    ],
)
def test_what_is_wrong_is_said_before_images_are_decoded(photos, tmp_path, monkeypatch, values):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain, "pretraining_images", lambda _: pytest.fail("decoding has begun"))
    values = {**SMALL, "datapath": str(photos), "output_dir": "r", **values}
    with pytest.raises((ValueError, OSError)):
        pretrain.run(recipe(Recipe, **values))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_resumed_run_is_bit_equal_on_a_gpu_where_it_is_deterministic(photos, tmp_path):
    values = {"device": "cuda", "deterministic": True, "lr": 0.1}
    try:
        run(photos, tmp_path / "whole", **values)
        run(photos, tmp_path / "parts", max_steps=7, **values)
        run(photos, tmp_path / "parts", **values)
    finally:
        torch.use_deterministic_algorithms(False)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_a_code(tmp_path):
    done = launch(
        "train_ssl.py",
        "--dataset",
        "images",
        "--datapath",
        tmp_path / "none",
        "--output_dir",
        tmp_path / "r",
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "Traceback" not in done.stderr
        and str(tmp_path / "none") in done.stderr.strip().splitlines()[-1]
    )
