"""finetune.py as users run it: accuracies, resuming, ranks, evaluation, weights of all kinds, and given bad input."""

import argparse
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import content_of, launch, recipe, result_of, rows_of, same
from finetuning import NETWORK, PLAIN, SMALL, networks, run, words

from multicrop import cli
from multicrop.commands import _finetune_data, finetune
from multicrop.commands._finetune_data import backbone_options, images_per_part
from multicrop.config.finetune import Recipe
from multicrop.config.flags import to_flags
from multicrop.engine.schedule import cosine, epoch_cosine
from multicrop.supervised import validation
from multicrop.supervised.augmentation import flip_probability, policy_name
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.mixing import Mixing


@pytest.fixture(scope="module")
def finished(colours, tmp_path_factory):
    """One plain run: its folder and its result."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(colours, folder, **PLAIN, lr=0.01, epochs=8, warmup=1)


# Runs


def test_it_learns_and_reports_both_accuracies(finished):
    folder, result = finished
    assert (result["status"], result["step"], result["epoch"]) == ("finished", 32, 8.0)
    assert result["test_top1"] > 80 and result["test_top5"] == 100
    validated = {row["epoch"]: row["val_top1"] for row in rows_of(folder) if "val_top1" in row}
    assert list(validated) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (
        validated[result["selected_epoch"]]
        == result["selected_val_top1"]
        == max(validated.values())
    )
    best = content_of(folder / "best.pt")
    assert best["epoch"] == result["selected_epoch"] and "optimizer" not in best
    assert (folder / "recipe.yaml").exists() and list(folder.glob("events.*"))
    confusion = json.loads((folder / "confusion.json").read_text())
    assert (
        confusion["classes"] == ["blue", "green", "red"]
        and (folder / "confusion.png").stat().st_size > 1000
    )
    assert sum(confusion["per_class_top1"].values()) / 3 == pytest.approx(
        result["test_top1"], abs=0.01
    )


def test_a_checkpoint_describes_itself(finished):
    state = content_of(finished[0] / "checkpoint.pt")
    assert (state["kind"], state["backbone"]["arch"], state["backbone"]["image_size"]) == (
        "finetune",
        "vit",
        16,
    )
    assert state["data"]["classes"] == ["blue", "green", "red"]
    assert state["model"]["head.weight"].shape == (3, 16)


def test_the_learning_rate_is_the_published_one(golden, colours, tmp_path):
    recorded = np.load(golden / "schedules.npz")
    c = json.loads(str(recorded["finetune_config"]))
    per_epoch, steps = c["iters_per_epoch"], c["epochs"] * c["iters_per_epoch"]
    ours = [
        cosine(
            step,
            steps,
            c["lr"],
            c["min_lr"],
            c["warmup"] * per_epoch,
            floor=c["min_lr"],
            plateau=False,
        )
        for step in range(steps)
    ]
    np.testing.assert_allclose(ours, recorded["finetune_lr"], rtol=0, atol=1e-12)
    run(colours, tmp_path, warmup=1)
    rates = [row["lr"] for row in rows_of(tmp_path) if "lr" in row]
    assert rates == [
        cosine(step, 12, 1e-3, 1e-6, 4, floor=1e-6, plateau=False) for step in range(12)
    ]


def test_the_published_schedules_by_epoch_and_the_scaling_by_batch(golden, colours, tmp_path):
    options = {
        "schedule": "epoch",
        "schedule_lag": 1,
        "warmup": 1,
        "warmup_lr": 1e-4,
        "cooldown_epochs": 1,
    }
    run(colours, tmp_path, lr=0.01, lr_batch=24, min_lr=1e-3, **options)
    rates = [row["lr"] for row in rows_of(tmp_path) if "lr" in row]
    expected = [
        epoch_cosine(epoch, 3, 0.005, 1e-3, 1, 1e-4) for epoch in (0, 0, 1, 2) for _ in range(4)
    ]
    assert rates == expected and len(set(rates)) == 3


def test_averaged_weights_are_evaluated_selected_and_resumed(colours, tmp_path):
    options = {"ema_decay": 0.9, "ema_warmup": True, "lr": 0.01, "warmup": 1}
    whole = run(colours, tmp_path / "whole", **PLAIN, **options)
    run(colours, tmp_path / "parts", max_steps=5, **PLAIN, **options)
    parts = run(colours, tmp_path / "parts", **PLAIN, **options)
    state, other = (content_of(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    same(state["average"], other["average"])
    assert not torch.equal(state["average"]["head.weight"], state["model"]["head.weight"])
    assert whole["ema_test_loss"] == parts["ema_test_loss"] != whole["test_loss"]
    best = content_of(tmp_path / "whole" / "best.pt")
    same(content_of(tmp_path / "whole" / "averaged.pt")["model"], state["average"])
    if best["epoch"] == 3:
        same(best["model"], state["average"])
    ends = [row for row in rows_of(tmp_path / "whole") if "ema_val_top1" in row]
    assert len(ends) == 3 and all("val_top1" in row for row in ends)
    assert whole["selected_val_top1"] == max(row["ema_val_top1"] for row in ends)
    found = run(
        colours,
        tmp_path / "whole",
        eval=True,
        pretrained_weights=str(tmp_path / "whole" / "best.pt"),
    )
    assert found["test_loss"] == pytest.approx(whole["selected_test_loss"], rel=1e-5)


def test_a_linear_probe_of_random_weights_is_warned_of(colours, tmp_path, capsys):
    run(colours, tmp_path, freeze_backbone=True, max_steps=1, **PLAIN)
    assert "--freeze_backbone with --scratch: only the classifier learns" in capsys.readouterr().err


def test_a_linear_probe_changes_the_head_alone(colours, finished, tmp_path):
    result = run(
        colours,
        tmp_path,
        freeze_backbone=True,
        pretrained_weights=str(finished[0]),
        lr=0.01,
        **PLAIN,
    )
    before = content_of(finished[0] / "checkpoint.pt")["model"]
    after = content_of(tmp_path / "checkpoint.pt")["model"]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"} and result["test_top1"] > 80


def test_decay_exemptions_and_layer_decay_make_groups(colours, tmp_path):
    options = {"decay": "matrices", "no_decay": ("*pos_embed*", "cls_token"), "layer_decay": 0.5}
    run(colours, tmp_path, max_steps=1, **options)
    found = content_of(tmp_path / "checkpoint.pt")["optimizer"]["param_groups"]
    assert {group["lr_scale"] for group in found} == {1.0, 0.5, 0.25, 0.125}
    assert {group["weight_decay"] for group in found if not group["decays"]} == {0.0}


def test_sgd_repeats_and_a_cap_on_the_gradient(colours, tmp_path):
    options = {
        "optimizer": "sgd",
        "clip_grad": 1e-3,
        "repeats": 3,
        "lr": 1.0,
        "warmup": 0,
        "weight_decay": 0.0,
    }
    run(colours, tmp_path / "a", epochs=1, max_steps=1, **options)
    run(colours, tmp_path / "b", epochs=1, max_steps=1, **options | {"lr": 0.0, "min_lr": 0.0})
    moved, start = (content_of(tmp_path / name / "checkpoint.pt")["model"] for name in "ab")
    length = sum((moved[name] - start[name]).square().sum() for name in moved).sqrt()
    assert length == pytest.approx(1.9e-3, rel=0.01)  # the cap, and Nesterov's 0.9 of it again


def test_steps_in_bf16_are_near_those_in_fp32(colours, tmp_path):
    options = {**PLAIN, "max_steps": 2, "lr": 0.01, "warmup": 0}
    results = [
        run(colours, tmp_path / name, precision=name, **options) for name in ("fp32", "bf16")
    ]
    exact, rounded = (content_of(tmp_path / name / "checkpoint.pt") for name in ("fp32", "bf16"))
    assert rounded["recipe"]["precision"] == "bf16"
    assert all(value.dtype == torch.float32 for value in rounded["model"].values())
    assert not torch.equal(exact["model"]["head.weight"], rounded["model"]["head.weight"])
    losses = [
        [row["loss"] for row in rows_of(tmp_path / name) if "lr" in row]
        for name in ("fp32", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert results[1]["test_loss"] == pytest.approx(results[0]["test_loss"], rel=0.02)


def test_every_parameter_decays_in_one_group(finished):
    (group,) = content_of(finished[0] / "checkpoint.pt")["optimizer"]["param_groups"]
    model = content_of(finished[0] / "checkpoint.pt")["model"]
    assert len(group["params"]) == len(model) and group["weight_decay"] == 0.05


@pytest.mark.parametrize(("step", "eval_freq"), [(3, 1), (4, 2), (9, 2)])
def test_a_resumed_run_is_bit_equal_to_one_never_stopped(colours, tmp_path, step, eval_freq):
    """All of the augmentation, the mixing, drop path and dropout are on; an epoch is 4 steps."""
    options = {"drop_rate": 0.1, "accumulate": 2, "mix_prob": 1.0, "eval_freq": eval_freq}
    whole = run(colours, tmp_path / "whole", **options)
    assert run(colours, tmp_path / "parts", max_steps=step, **options)["step"] == step
    parts = run(colours, tmp_path / "parts", **options)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))
    compared = ("test_loss", "selected_test_loss", "selected_epoch", "selected_val_top1")
    assert [whole[name] for name in compared] == [parts[name] for name in compared]
    assert [row["step"] for row in rows_of(tmp_path / "parts") if "lr" in row] == list(range(1, 13))


def signal_in_update(monkeypatch, number: int) -> None:
    """A signal comes in the update of this number, counted from 1, over all runs of the test."""
    update, calls = finetune.update, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == number:
            signal.raise_signal(signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(finetune, "update", interrupted)


def test_a_signal_finishes_the_step_saves_and_the_run_goes_on_later(colours, tmp_path, monkeypatch):
    signal_in_update(monkeypatch, 6)
    result = run(colours, tmp_path / "parts")
    assert (result["status"], result["step"]) == ("interrupted", 6)
    assert run(colours, tmp_path / "parts")["status"] == "finished"
    run(colours, tmp_path / "whole")
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))


def test_rows_of_a_resumed_run_are_those_of_an_undisturbed_one(colours, tmp_path, monkeypatch):
    """Stopped between two rows; and a finished run that is started again adds none."""
    run(colours, tmp_path / "whole", log_freq=5)
    signal_in_update(monkeypatch, 7)
    for status in ("interrupted", "finished", "finished"):
        assert run(colours, tmp_path / "parts", log_freq=5)["status"] == status

    def without_times(folder: Path) -> list[dict]:
        measured = ("time", "images_per_second", "data_share")
        return [
            {name: value for name, value in row.items() if name not in measured}
            for row in rows_of(folder)
        ]

    assert without_times(tmp_path / "parts") == without_times(tmp_path / "whole")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PK")])
@pytest.mark.parametrize("finished", [True, False])
def test_without_the_selected_weights_a_run_says_so_and_goes_on(
    colours, tmp_path, capsys, damage, finished
):
    run(colours, tmp_path, **({} if finished else {"max_steps": 8}))
    damage(tmp_path / "best.pt")
    result = run(colours, tmp_path)
    assert result["status"] == "finished" and "best.pt" in capsys.readouterr().err
    if finished:
        assert "selected_epoch" not in result
    else:
        assert result["selected_epoch"] == 3 and (tmp_path / "best.pt").exists()


def test_weights_that_are_not_finite_after_the_last_step_are_a_failure(
    colours, tmp_path, monkeypatch
):
    run(colours, tmp_path, max_steps=11)
    before = networks(tmp_path)
    update = finetune.update

    def poisoned(nets, *rest):
        seen = update(nets, *rest)
        nets.model.head.bias.data.fill_(math.nan)
        return seen

    monkeypatch.setattr(finetune, "update", poisoned)
    with pytest.raises(FloatingPointError, match="weights are not finite after step 12"):
        run(colours, tmp_path)
    same(before, networks(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    colours, tmp_path, monkeypatch
):
    run(colours, tmp_path, max_steps=5)
    before = networks(tmp_path)
    update = finetune.update

    def poisoned(nets, *rest):
        nets.model.head.bias.data.fill_(math.nan)
        return update(nets, *rest)

    monkeypatch.setattr(finetune, "update", poisoned)
    with pytest.raises(FloatingPointError, match="not finite at step 5"):
        run(colours, tmp_path)
    same(before, networks(tmp_path))


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    colours, tmp_path, monkeypatch
):
    run(colours, tmp_path, max_steps=5)
    before = networks(tmp_path)
    update = finetune.update

    def poisoned(nets, *rest):
        hook = nets.model.head.bias.register_hook(lambda gradient: gradient * math.inf)
        seen = update(nets, *rest)
        hook.remove()
        assert seen.loss.isfinite()  # it is from before the update
        return seen

    monkeypatch.setattr(finetune, "update", poisoned)
    with pytest.raises(FloatingPointError, match="not finite at step 5"):
        run(colours, tmp_path, max_steps=6)
    same(before, networks(tmp_path))


def test_a_signal_while_images_are_read_leaves_the_run_resumable(colours, tmp_path, monkeypatch):
    labelled = _finetune_data.labelled_images

    def slow(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return labelled(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_finetune_data, "labelled_images", slow)
        result = run(colours, tmp_path, epochs=1)
    assert (result["status"], result["step"]) == ("interrupted", 0)
    assert run(colours, tmp_path, epochs=1)["status"] == "finished"


def test_only_due_epochs_are_selected(colours, tmp_path):
    """The epoch at whose end a run is cut short is measured, but a run that went on would not look at it."""
    result = run(colours, tmp_path, eval_freq=2, max_steps=4)
    assert any("val_top1" in row for row in rows_of(tmp_path)) and result["best"] is None
    assert run(colours, tmp_path, eval_freq=2)["selected_epoch"] in (2, 3)


def test_without_validation_nothing_is_selected(colours, tmp_path):
    result = run(colours, tmp_path, val_fraction=0.0, epochs=1)
    assert result["step"] == 5 and result["best"] is None and "selected_test_top1" not in result
    assert "test_top1" in result and not (tmp_path / "best.pt").exists()


def test_an_epoch_is_several_passes(colours, tmp_path):
    assert run(colours, tmp_path, ra=3, epochs=1)["step"] == 54 * 3 // 12


def test_a_warm_up_longer_than_the_run_is_shortened_and_said(colours, tmp_path, capsys):
    run(colours, tmp_path, epochs=1)
    assert "--warmup 10 does not fit a run of 1 epochs: using 0" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_train_as_one(colours, tmp_path):
    """Without drop path; the order in which gradients are summed is all that differs."""
    values = {**SMALL, "epochs": 1, "sd": 0, "datapath": colours}
    del values["device"]
    two = launch(
        "finetune.py",
        "--scratch",
        "--recipe",
        "published",
        *words(values),
        "--output_dir",
        tmp_path / "two",
        ranks=2,
    )
    found = result_of(two)
    assert len(two.stdout.strip().splitlines()) == 1
    one = run(colours, tmp_path / "one", epochs=1, sd=0.0)
    assert found["test_loss"] == pytest.approx(one["test_loss"], abs=1e-4)
    assert found["step"] == one["step"] and found["selected_epoch"] == one["selected_epoch"]


# Evaluation only, and weights to start from


def test_evaluation_finds_the_accuracies_of_the_run(colours, finished, tmp_path):
    folder, result = finished
    newest = run(colours, folder, eval=True)
    assert (newest["test_top1"], newest["test_loss"]) == (result["test_top1"], result["test_loss"])
    best = run(colours, tmp_path, eval=True, pretrained_weights=str(folder / "best.pt"))
    assert best["test_loss"] == result["selected_test_loss"]
    assert best["output_dir"] == str(tmp_path) and best["images_per_second"] > 0


def bare(folder, **values) -> dict:
    """A run that states neither data set nor network."""
    return finetune.run(recipe(Recipe, output_dir=str(folder), device="cpu", **values))


def test_a_checkpoint_says_which_images_it_is_for(finished, tmp_path):
    folder, result = finished
    assert bare(folder, eval=True)["test_loss"] == result["test_loss"]
    bare(tmp_path, pretrained_weights=str(folder), batch_size=12, ra=1, **STANDING_STILL)
    state = content_of(tmp_path / "checkpoint.pt")
    assert (state["data"]["dataset"], state["recipe"]["dataset"]) == (
        "image_folder",
        "image_folder",
    )
    assert bare(tmp_path / "new", scratch=True, max_steps=1, **NETWORK)["checkpoint"]
    assert content_of(tmp_path / "new" / "checkpoint.pt")["data"]["dataset"] == "shapes"


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_it_used(
    colours, finished, tmp_path, capsys
):
    for name in ("checkpoint.pt", "checkpoint_previous.pt"):
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    newest = tmp_path / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:2000])
    assert run(colours, tmp_path, eval=True)["checkpoint"] == str(
        tmp_path / "checkpoint_previous.pt"
    )
    assert f"{newest} is damaged" in capsys.readouterr().err
    started_from(colours, tmp_path, tmp_path / "run")
    assert f"{tmp_path / 'checkpoint_previous.pt'}: " in capsys.readouterr().err


def test_a_published_finetuned_file_is_evaluated(colours, finished, tmp_path):
    """The published best.pth: one flat state dict with its classifier, under model_state_dict."""
    model = content_of(finished[0] / "checkpoint.pt")["model"]
    flat = {name.removeprefix("backbone."): value for name, value in model.items()}
    torch.save({"model_state_dict": flat, "epoch": 7, "scheduler": None}, tmp_path / "best.pth")
    found = run(colours, tmp_path, eval=True, pretrained_weights=str(tmp_path / "best.pth"))
    assert found["test_loss"] == finished[1]["test_loss"]


def backbone_of(folder) -> dict:
    model = content_of(folder / "best.pt")["model"]
    return {
        name.removeprefix("backbone."): value
        for name, value in model.items()
        if name.startswith("backbone.")
    }


STANDING_STILL = {"lr": 0.0, "min_lr": 0.0, "epochs": 1, "max_steps": 1}


def started_from(images, file, folder, **values) -> dict:
    """The backbone after a run of one step at learning rate 0."""
    run(images, folder, pretrained_weights=str(file), **STANDING_STILL, **values)
    model = content_of(folder / "checkpoint.pt")["model"]
    return {
        name.removeprefix("backbone."): value
        for name, value in model.items()
        if name.startswith("backbone.")
    }


def test_published_stage_one_files_need_trust_and_then_fill_the_backbone(
    colours, finished, tmp_path, capsys
):
    source = backbone_of(finished[0])
    file, head = tmp_path / "published.pth", {"mlphead.mlp.0.weight": torch.zeros(2, 2)}
    teacher = {f"backbone.{name}": value for name, value in source.items()} | head
    student = {f"module.backbone.{name}": value + 1 for name, value in source.items()} | head
    torch.save(
        {"teacher": teacher, "student": student, "args": argparse.Namespace(arch="vit")}, file
    )
    with pytest.raises(ValueError, match=r"can run code; .* add --trust_checkpoint"):
        run(colours, tmp_path / "a", pretrained_weights=str(file))
    same(started_from(colours, file, tmp_path / "a", trust_checkpoint=True), source)
    assert f"{len(source)} tensors loaded by name" in capsys.readouterr().err
    shifted = started_from(
        colours, file, tmp_path / "b", trust_checkpoint=True, checkpoint_key="student"
    )
    same(shifted, {name: value + 1 for name, value in source.items()})


def test_our_files_say_what_to_build(colours, finished, tmp_path):
    network = dict.fromkeys(NETWORK)
    same(
        started_from(colours, finished[0] / "best.pt", tmp_path, **network),
        backbone_of(finished[0]),
    )


def test_the_head_is_new_and_so_the_number_of_classes_is_free(colours, finished, tmp_path):
    state = content_of(finished[0] / "best.pt")
    head = {"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}
    torch.save({**state, "model": {**state["model"], **head}}, tmp_path / "seven.pt")
    same(started_from(colours, tmp_path / "seven.pt", tmp_path / "run"), backbone_of(finished[0]))
    assert content_of(tmp_path / "run" / "checkpoint.pt")["model"]["head.weight"].shape == (
        3,
        16,
    )
    with pytest.raises(ValueError, match="tells 7 classes apart, but image_folder has 3"):
        run(colours, tmp_path, eval=True, pretrained_weights=str(tmp_path / "seven.pt"))


def test_tensors_of_other_shapes_are_named(colours, finished, tmp_path, capsys):
    run(
        colours,
        tmp_path,
        pretrained_weights=str(finished[0] / "best.pt"),
        patch_size=4,
        **STANDING_STILL,
    )
    said = capsys.readouterr().err
    assert "the shapes differ: patch_embed.proj.weight (16, 3, 2, 2) for (16, 3, 4, 4)" in said


# What a user can get wrong


def refused(capsys, *argv) -> str:
    """The one line after which a command that the user can mend ends."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(Recipe, finetune.run, [*map(str, argv), "--device", "cpu"])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and not said.out and "Traceback" not in said.err
    (line,) = (line for line in said.err.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "no weights to start from: give --pretrained_weights FILE"),
        ("--scratch --eval", "leave it or --eval out"),
        ("--scratch --re 2", "--re 2.0: must be within 0 and 1"),
        ("--scratch --aa_policy mnist", "aa_policy"),
        ("--scratch --smoothin 0.2", "did you mean 'smoothing'"),
        ("--scratch --dataset CIFAR10 --datapath nowhere", "nowhere"),
        ("--scratch --dataset cifra10", "did you mean 'cifar10'"),
        ("--scratch --objective entropy", "cross_entropy"),
        ("--scratch --precision fp16", "needs a CUDA device"),
        ("--scratch --ema_decay 1", "--ema_decay 1.0: must be at least 0 and below 1"),
        (
            "--scratch --repeats 3",
            "--repeats 3: shows a part of the images in an epoch: give --ra 1, too (--ra is 3, 3 unless",
        ),
        ("--scratch --no_decay cls_token", "--no_decay cls_token: needs --decay matrices"),
        ("--scratch --layer_decay 0", "--layer_decay 0.0: must be above 0 and at most 1"),
        ("--scratch --max_steps 0", "--max_steps 0: must be at least 1"),
        ("--scratch --source_size -8", "--source_size -8: must be at least 1"),
        ("--scratch --re_sh 0", "--re_sh 0.0: must be within 0.02 and 1"),
        ("--scratch --weight_decay -1", "--weight_decay -1.0: must not be negative"),
        ("--pretrained_weights nowhere.pt", "no checkpoint at nowhere.pt"),
        ("--eval --output_dir nowhere", "no checkpoint at nowhere"),
    ],
)
def test_wrong_flags_get_one_line(flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(
        capsys, *flags.split(), *(["--dataset", "shapes"] if "objective" in flags else [])
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--batch_size 12 --arch vitt", "did you mean 'vit'"),
        ("--batch_size 12 --patch_size 5", "patch size 5 does not divide image size 32"),
        ("--batch_size 100 --ra 1", "more than an epoch has, of 54 training images"),
        ("--batch_size 10 --accumulate 4", "is not divisible by 1 ranks x 4 parts"),
    ],
)
def test_sizes_that_do_not_fit_get_one_line(colours, flags, says, capsys, tmp_path):
    data = ("--dataset", "image_folder", "--datapath", colours, "--output_dir", tmp_path)
    assert says in refused(capsys, "--scratch", *data, *flags.split())


def test_an_odd_share_of_a_mixed_batch_is_refused():
    with pytest.raises(
        ValueError, match=r"is 3 images each, an odd number, and mixing takes them by pairs"
    ):
        images_per_part(recipe(Recipe, batch_size=12, accumulate=2), 2)
    assert images_per_part(recipe(Recipe, batch_size=12, accumulate=2, mix_prob=0.0), 2) == 3
    assert images_per_part(recipe(Recipe, batch_size=12, accumulate=2, cm=False, mu=False), 2) == 3
    assert images_per_part(recipe(Recipe, batch_size=13), 1) == 13


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--arch vitt", "did you mean 'vit'"),
        ("--arch timm:resnt18", "has no model 'resnt18'; the nearest"),
        ("--patch_size 5 --image_size 32", "patch size 5 does not divide image size 32"),
        ("--output_dir file/below", "cannot make the run folder file/below"),
    ],
)
def test_it_is_said_before_images_are_decoded(flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(_finetune_data, "labelled_images", None)
    assert says in refused(capsys, "--scratch", *flags.split())


def test_weights_that_do_not_fit_are_refused_before_images_are_decoded(
    capsys, tmp_path, monkeypatch
):
    torch.save({"unknown.weight": torch.zeros(3)}, tmp_path / "x.pt")
    monkeypatch.setattr(_finetune_data, "labelled_images", None)
    assert "x.pt" in refused(
        capsys, "--pretrained_weights", tmp_path / "x.pt", "--image_size", "32"
    )


def test_what_the_weights_fill_is_said_once(colours, finished, tmp_path, capsys):
    run(colours, tmp_path, pretrained_weights=str(finished[0]), max_steps=1, **PLAIN)
    assert capsys.readouterr().err.count("tensors loaded by name") == 1


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 0)() == 0, reason="nothing is forbidden to this user"
)
def test_a_folder_that_cannot_be_written_is_refused(colours, capsys, tmp_path):
    tmp_path.chmod(0o500)
    data = ("--dataset", "image_folder", "--datapath", colours, "--output_dir", tmp_path)
    assert "permission denied; choose another --output_dir" in refused(capsys, "--scratch", *data)


def test_unlabelled_images_are_refused(colours, capsys, tmp_path):
    data = ("--dataset", "images", "--datapath", colours, "--output_dir", tmp_path)
    assert "has no labels, and they are needed" in refused(capsys, "--scratch", *data)


def test_weights_that_do_not_fit_are_refused(colours, finished, tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"nothing in the file fits this network: it has conv\.weight"
    ):
        run(colours, tmp_path, pretrained_weights=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match=r"does not fit --arch vit .* no values for blocks\.2"):
        run(
            colours,
            tmp_path,
            eval=True,
            pretrained_weights=str(finished[0] / "best.pt"),
            num_layers=3,
        )
    torch.save(backbone_of(finished[0]), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="has no classifier, it was not finetuned"):
        run(colours, tmp_path, eval=True, pretrained_weights=str(tmp_path / "bare.pt"))


def test_another_recipe_does_not_resume(colours, finished):
    options = {**PLAIN, "lr": 0.01, "epochs": 8, "warmup": 1}
    with pytest.raises(
        ValueError, match=r"smoothing 0\.1 \(now 0\.2\); a global batch of 12 \(now 6\)"
    ):
        run(colours, finished[0], **options, smoothing=0.2, batch_size=6)


# Parts


def test_the_validation_split_is_stratified_and_seeded():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 3 + [3])
    chosen, held = validation.split(labels, 0.1, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[held], minlength=4).tolist() == [10, 5, 1, 0]
    assert torch.equal(torch.cat([chosen, held]).sort().values, torch.arange(154))
    again = validation.split(labels, 0.1, torch.Generator().manual_seed(0))[1]
    other = validation.split(labels, 0.1, torch.Generator().manual_seed(1))[1]
    assert torch.equal(held, again) and not torch.equal(held, other)
    assert len(validation.split(labels, 0.0, torch.Generator())[1]) == 0


def test_defaults_are_the_published_ones():
    r = recipe(Recipe, scratch=True)
    published = {
        "epochs": 100, "warmup": 10, "batch_size": 256, "lr": 1e-3, "weight_decay": 0.05, "sd": 0.1, "smoothing": 0.1,
        "beta": 1.0, "alpha": 1.0, "mix_prob": 0.5, "ra": 3, "re": 0.25, "re_sh": 0.4, "re_r1": 0.3,
        "checkpoint_key": "teacher", "ls": True, "aa": True, "cm": True, "mu": True,
    }  # fmt: skip
    assert {name: to_flags(r)[name] for name in published} == published
    entries = {
        "cifar100": "cifar10",
        "svhn": "svhn",
        "tiny_imagenet": "imagenet",
        "cinic10": "imagenet",
    }
    assert {entry: policy_name(r.augmentation, entry) for entry in entries} == entries
    flipping = recipe(Recipe, scratch=True, flip=0.5)
    assert flip_probability(r.augmentation, "svhn") == 0.0
    assert flip_probability(r.augmentation, "cifar10") == 0.5
    assert flip_probability(flipping.augmentation, "svhn") == 0.5


def test_a_recipe_file_may_leave_the_start_to_the_command_line(tmp_path):
    (tmp_path / "short.yaml").write_text("epochs: 7\nls: false\n")
    r = cli.parse(Recipe, ["--recipe", str(tmp_path / "short.yaml"), "--scratch"])
    assert (r.optimisation.epochs, r.optimisation.ls, r.start.scratch) == (7, False, True)


def test_switches_do_what_they_say(capsys):
    r = cli.parse(Recipe, ["--scratch", "--aa", "false", "--cm", "--mu=false"])
    assert policy_name(r.augmentation, "cifar10") is None
    mixing = Mixing.from_recipe(r.augmentation)
    assert (mixing.cutmix, mixing.mixup) == (1.0, None)


def test_backbone_options_come_from_flags_then_file_then_defaults():
    described = {
        "arch": "vit",
        "image_size": 64,
        "patch_size": 8,
        "drop_path_rate": 0.3,
        "in_channels": 3,
    }
    options = backbone_options(recipe(Recipe, scratch=True, patch_size=4), described, 32, 1)
    assert options == {
        "arch": "vit",
        "image_size": 64,
        "patch_size": 4,
        "drop_path_rate": 0.1,
        "in_channels": 1,
    }
    other = backbone_options(recipe(Recipe, scratch=True, arch="swin"), described, 32, 3)
    assert other == {"arch": "swin", "image_size": 64, "drop_path_rate": 0.1, "in_channels": 3}


def test_the_classifier_starts_as_published():
    torch.manual_seed(0)
    backbone = torch.nn.Flatten()
    backbone.dim = 192
    head = Classifier(backbone, 100).head
    assert abs(head.weight.std() - 0.02) < 0.001 and not head.bias.any()
