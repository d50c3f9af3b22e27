"""benchmarks/small_sets.py: cut sets, budgets, resuming, and what the table says; nothing is trained."""

import json
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import _jobs, small_sets
from benchmarks._capped import cap_set, most_per_class
from benchmarks._small_sets_line import checkpoint_row, class_numbers, last_value, probe_numbers
from benchmarks._small_sets_settings import (
    SETTINGS,
    epochs_of,
    equal_compute_epochs,
    setting_flags,
)
from benchmarks._small_sets_table import collapsed, rows, table
from benchmarks.small_sets import Recipe, judge
from multicrop import cli
from multicrop.config import pretrain
from multicrop.config.backbone import BackboneSettings
from multicrop.config.flags import flag_types


def make_set(folder: Path, counts: dict[str, int], test: int = 3) -> Path:
    for split, numbers in (("train", counts), ("test", dict.fromkeys(counts, test))):
        for name, count in numbers.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                (folder / split / name / f"{index:03d}.png").write_text(f"{name} {index}")
    return folder


def contents(folder: Path) -> dict[str, list[str]]:
    return {path.name: sorted(f.read_text() for f in path.iterdir()) for path in folder.iterdir()}


def test_a_cut_set_is_balanced_and_evenly_spaced_and_made_once(tmp_path):
    source = make_set(tmp_path / "set", {"a": 10, "b": 20})
    cap_set(source, tmp_path / "one", train=10, test=4)
    cap_set(source, tmp_path / "two", train=10, test=4)
    train = contents(tmp_path / "one" / "train")
    assert train["a"] == [f"a {index}" for index in (0, 2, 4, 6, 8)]
    assert train["b"] == sorted(f"b {index}" for index in (0, 4, 8, 12, 16))
    assert {name: len(found) for name, found in contents(tmp_path / "one" / "test").items()} == {
        "a": 2,
        "b": 2,
    }
    assert contents(tmp_path / "two" / "train") == train
    cap_set(source, tmp_path / "one", train=2, test=2)
    assert contents(tmp_path / "one" / "train") == train


def test_files_are_copied_where_links_fail(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("os.symlink", refuse)
    cap_set(make_set(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "cut", train=9, test=9)
    assert contents(tmp_path / "cut" / "train")["b"] == ["b 0", "b 1"]


def test_a_cap_is_filled_by_large_classes_where_others_are_small():
    assert most_per_class([2, 10, 10], 14) == 6
    assert most_per_class([2, 10, 10], 100) >= 10
    with pytest.raises(ValueError, match="fewer than one for each of 3 classes"):
        most_per_class([2, 10, 10], 2)


def test_tiny_imagenet_becomes_class_folders(tmp_path):
    source = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        (source / "train" / name / "images").mkdir(parents=True)
        for index in range(3):
            (source / "train" / name / "images" / f"{name}_{index}.JPEG").write_text(name)
    (source / "wnids.txt").write_text("n02\nn01\n")
    (source / "val" / "images").mkdir(parents=True)
    for index in range(2):
        (source / "val" / "images" / f"val_{index}.JPEG").write_text(f"n0{2 - index}")
    text = "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (source / "val" / "val_annotations.txt").write_text(text)
    cap_set(source, tmp_path / "cut", train=4, test=2)
    assert contents(tmp_path / "cut" / "train") == {"n01": ["n01"] * 2, "n02": ["n02"] * 2}
    assert contents(tmp_path / "cut" / "test") == {"n01": ["n01"], "n02": ["n02"]}


def test_budgets_are_images_shown_and_warm_ups_are_shares_of_them():
    assert (epochs_of(60000, 4000), epochs_of(60000, 810), epochs_of(100, 810)) == (15, 74, 1)
    published = setting_flags(SETTINGS["published"], 200)
    assert "--warmup_epochs 30 --warmup_teacher_temp_epochs 10" in published
    assert "--warmup_epochs 2 --warmup_teacher_temp_epochs 1" in setting_flags(
        SETTINGS["published"], 15
    )
    assert "--warmup_epochs 0" in setting_flags(SETTINGS["shapes"], 1)
    assert setting_flags(SETTINGS["auto"], 15) == "--recipe auto"
    assert equal_compute_epochs(pretraining=90.0, finetuning=10.0, epochs=8) == 80
    with pytest.raises(ValueError, match="no measurable time"):
        equal_compute_epochs(1.0, 0.0, 8)


def test_published_at_the_length_of_the_defaults_is_the_defaults():
    words = [*shlex.split(setting_flags(SETTINGS["published"], 200)), "--epochs", "200"]
    assert replace(cli.parse(pretrain.Recipe, words), given=None) == pretrain.Recipe()


# Jobs


class Runner:
    """In place of processes: it answers each command as the scripts would."""

    def __init__(self):
        self.ran: list[str] = []
        self.fails = ""  # the start of a job's name

    def __call__(self, name, words, threads):
        self.ran.append(name)
        if self.fails and name.startswith(self.fails):
            raise RuntimeError(f"{name} failed with exit code 1: no")
        if words[0] == "eval_knn.py":
            checkpoint = "runs/ssl/last.pt" if "random_weights false" in " ".join(words) else None
            names = ["raw pixels", "random weights, seed 0", *filter(None, [checkpoint])]
            found = [
                {"checkpoint": name, "top1": {"20": 30.0 + index}, "linear_top1": 50.0}
                for index, name in enumerate(names)
            ]
            return {"results": found, "seconds": 1.0, "cpu_seconds": 1.0}
        folder = Path(words[words.index("--output_dir") + 1])
        assert not folder.exists(), "a run begins anew"
        folder.mkdir(parents=True)
        result = {"epoch": 1.0, "step": 3, "loss": 2.0, "output_dir": str(folder)}
        result |= {"seconds": 20.0, "cpu_seconds": 2.0}  # a busy machine
        if words[0] == "train_ssl.py":
            (folder / "metrics.jsonl").write_text('{"step": 3, "target_gap": 0.7}\n')
            chosen = {"arch": "vit", "image_size": 32, "pool": "mean", "crop_flip": 0.0}
            settings = dict.fromkeys(flag_types(BackboneSettings)) | chosen
            (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
            return result | {"seconds": 20.0, "cpu_seconds": 18.0}
        (folder / "confusion.json").write_text('{"counts": [[3, 0], [1, 0]]}')
        return result | {"test_top1": 75.0}


@pytest.fixture
def runner(monkeypatch):
    runner = Runner()
    monkeypatch.setattr(_jobs, "execute", runner)
    return runner


@pytest.fixture
def recipe(tmp_path):
    make_set(tmp_path / "sets" / "one", {"a": 10, "b": 10})
    return Recipe(
        datapath=str(tmp_path / "sets"), sets=("one",), backbones=("vit",), settings=("shapes", "published"),
        seeds=(0,), cap=10, ssl_images=20, ft_images=30, out=str(tmp_path / "out"), device="cpu",
    )  # fmt: skip


def lines_of(recipe: Recipe) -> list[dict]:
    text = (Path(recipe.out) / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_jobs_are_those_of_the_plan_and_their_lines_say_what_came_out(recipe, runner, capsys):
    assert judge(recipe)["runs"] == len(runner.ran) == 10
    lines = {(line["what"], line["setting"]): line for line in lines_of(recipe)}
    assert list(lines["pretrain", "shapes"]) == [
        "set", "backbone", "setting", "seed", "what", "command", "numbers", "seconds", "cpu_seconds", "machine",
        "network", "inherited",
    ]  # fmt: skip
    assert lines["raw", None]["backbone"] is None
    assert lines["random", None]["numbers"] == {"knn": 31.0, "linear": 50.0}
    assert lines["pretrained", "published"]["numbers"]["collapsed"] is False
    assert "--epochs 2 --knn_freq 0" in lines["pretrain", "shapes"]["command"]
    assert "--epochs 3" in lines["scratch", None]["command"]
    # 3 epochs took 2 s, pretraining 18 s; measured for the first setting, there is no auto.
    assert "--epochs 30" in lines["scratch_compute", "shapes"]["command"]
    assert ("scratch_compute", "published") not in lines
    assert lines["finetune", "shapes"]["numbers"]["balanced_top1"] == 50.0
    assert "| one | vit | shapes | 30.00 (1) | 31.00 (1) |" in capsys.readouterr().out


def test_a_setting_that_chooses_the_network_is_compared_with_that_network(recipe, runner):
    judge(replace(recipe, settings=("published", "auto")))
    lines = {(line["what"], line["setting"]): line["command"] for line in lines_of(recipe)}
    for what in ("random", "scratch"):
        assert "--pool mean" in lines[what, "auto"] and "--pool" not in lines[what, None]
    assert "--flip 0" in lines["scratch", "auto"] and "--flip" not in lines["scratch", None]
    assert "--pool mean" in lines["scratch_compute", "auto"]
    assert ("scratch_compute", "published") not in lines


def test_with_few_labels_pretraining_has_all_images_and_stage_two_a_draw_for_each_seed(
    recipe, runner
):
    judge(replace(recipe, settings=("published",), seeds=(0, 1), label_percent=20))
    commands = {(line["what"], line["seed"]): line["command"] for line in lines_of(recipe)}
    assert "--epochs 2 " in commands["pretrain", 1] and "--label" not in commands["pretrain", 1]
    for what in ("scratch", "finetune", "scratch_compute"):
        assert "--label_percent 20 --label_draw 1 --batch_size 2 " in commands[what, 1]
    assert "--epochs 15 " in commands["finetune", 0] and "--epochs 15 " in commands["scratch", 0]


def test_what_is_there_is_not_run_again_and_a_stopped_run_begins_anew(recipe, runner):
    runner.fails = "one-vit-finetune"
    with pytest.raises(ValueError, match="3 of 10 runs failed; one-vit-finetune"):
        judge(recipe)
    runner.fails = ""
    runner.ran.clear()
    half = Path(recipe.out) / "runs" / "one-vit-finetune-shapes-0"
    half.mkdir()
    judge(recipe)
    assert sorted(runner.ran) == [
        "one-vit-finetune-published-0", "one-vit-finetune-shapes-0", "one-vit-scratch_compute-shapes-0"
    ]  # fmt: skip
    runner.ran.clear()
    judge(recipe)
    assert runner.ran == []


def test_a_table_alone_runs_nothing_and_needs_no_images(recipe, runner, capsys):
    judge(recipe)
    runner.ran.clear()
    capsys.readouterr()
    judge(Recipe(sets=("one",), settings=("published",), out=recipe.out, device="cpu", table=True))
    printed = capsys.readouterr().out
    assert "| published |" in printed and "| shapes |" not in printed and not runner.ran


def test_another_budget_and_a_set_that_is_not_there_are_refused_before_any_run(recipe, runner):
    judge(recipe)
    runner.ran.clear()
    other = {"datapath": recipe.datapath, "out": recipe.out, "device": "cpu"}
    with pytest.raises(ValueError, match="has results of --cap 10, not 4000"):
        judge(Recipe(**other))
    with pytest.raises(ValueError, match=r"has results of --label_percent 100\.0, not 10"):
        judge(replace(recipe, label_percent=10))
    with pytest.raises(ValueError, match="has no folder gtsrb"):
        judge(Recipe(**{**other, "out": f"{recipe.out}2"}))
    with pytest.raises(ValueError, match="--backbones swin: there are vit, cct, resnet"):
        Recipe(backbones=("swin",))
    assert runner.ran == []


# Numbers and words


def test_a_run_has_collapsed_below_random_weights_or_with_equal_targets():
    assert collapsed(27.9, 30.0, 0.7) and not collapsed(28.1, 30.0, 0.7)
    assert collapsed(50.0, 30.0, 0.04) and not collapsed(50.0, 30.0, None)


def test_numbers_come_from_what_a_command_leaves(tmp_path):
    row = {"checkpoint": "runs/ssl/last.pt", "top1": {"7": 41.0}}
    named = [{"checkpoint": "raw pixels"}, {"checkpoint": "random weights, seed 3"}, row]
    assert checkpoint_row({"results": named}) is row
    assert probe_numbers(row) == {"knn": 41.0, "linear": None}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "target_gap": 2}\n{"step": 2}\n')
    assert last_value(tmp_path, "target_gap") == 2 and last_value(tmp_path, "other") is None
    (tmp_path / "confusion.json").write_text('{"counts": [[2, 2], [0, 4]]}')
    assert class_numbers(tmp_path) == {"balanced_top1": 75.0, "equal_classes": True}
    (tmp_path / "confusion.json").write_text('{"counts": [[1, 1, 0], [0, 4, 0], [0, 0, 0]]}')
    assert class_numbers(tmp_path) == {"balanced_top1": 75.0, "equal_classes": False}


def line(what, setting=None, seed=0, backbone="vit", **numbers):
    return {
        "set": "one", "backbone": backbone, "setting": setting, "seed": seed, "what": what, "numbers": numbers
    }  # fmt: skip


def test_the_table_has_means_spreads_and_a_sentence_where_pretraining_fails():
    lines = [line("raw", seed=None, backbone=None, knn=25.0, linear=None)]
    for seed, shift in ((0, -1.0), (1, 1.0)):
        trained = {"equal_classes": False, "balanced_top1": 10.0}
        lines += [
            line("random", seed=seed, knn=30.0 + shift, linear=40.0),
            line("scratch", seed=seed, test_top1=60.0, **trained),
            line("pretrained", "bad", seed, knn=31.0 + shift, linear=40.0, collapsed=seed == 0),
            line("finetune", "bad", seed, test_top1=59.0, **trained),
            line("pretrained", "good", seed, knn=41.0 + shift, linear=50.0, collapsed=False),
            line("finetune", "good", seed, test_top1=65.0, **trained),
            line("scratch_compute", "good", seed, test_top1=66.5, **trained),
        ]
    text = table(rows(lines, ["one"], ["vit", "cct"], ["bad", "good", "none"])).splitlines()
    assert text[2].startswith(
        "| one | vit | bad | 25.00 (1) | 30.00 ± 1.41 (2) | 31.00 ± 1.41 (2) | - |"
    )
    assert text[2].endswith("| 10.00 ± 0.00 (2) | - | 10.00 ± 0.00 (2) | 1 of 2 |")
    assert text[3].startswith("| one | vit | good |") and text[3].endswith("| 0 of 2 |")
    start = "- one, vit, bad: k-NN after pretraining does not beat random weights"
    assert f"{start} (+1.00 points with a spread of 1.41)." in text
    assert "- one, vit, bad: finetuned is below scratch at equal epochs by 1.00 points." in text
    assert "- one, vit, good: finetuned is below scratch at equal compute by 1.50 points." in text
    assert sum(words.startswith("- ") for words in text) == 3


def test_joint_training_is_compared_with_the_baselines_of_auto():
    with pytest.raises(ValueError, match="--settings joint: its baselines are those of auto"):
        Recipe(settings=("joint",))


def test_baselines_of_another_network_are_not_in_a_row():
    lines = [
        line("raw", seed=None, backbone=None, knn=25.0),
        line("random", knn=30.0),
        line("random", "auto", knn=35.0),
    ]
    lines.append(line("pretrained", "joint", knn=50.0))
    owners = {"auto": "auto", "joint": "auto"}
    plain, auto, joint = rows(lines, ["one"], ["vit"], ["published", "auto", "joint"], owners)
    assert joint.values("random", "knn") == [35.0] and joint.values("pretrained", "knn") == [50.0]
    assert plain.values("random", "knn") == [30.0] and auto.values("random", "knn") == [35.0]
    assert plain.values("raw", "knn") == auto.values("raw", "knn") == [25.0]


def test_balanced_accuracies_are_left_out_where_classes_are_balanced_and_a_later_line_counts():
    numbers = {"equal_classes": True, "balanced_top1": 70.0}
    lines = [
        line("finetune", "good", test_top1=1.0, **numbers),
        line("finetune", "good", test_top1=70.0, **numbers),
    ]
    (text,) = table(rows(lines, ["one"], ["vit"], ["good"])).splitlines()[2:3]
    assert text.endswith("| 70.00 (1) | - | - | - | 0 of 0 |")


def test_jobs_of_the_default_plan_have_names_and_commands_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/small_sets/sets/gtsrb/train/a").mkdir(parents=True)
    (tmp_path / "runs/small_sets/sets/gtsrb/train/a/0.png").touch()
    planned = small_sets.jobs(Recipe(sets=("gtsrb",)))
    names = [job.name for job in planned]
    assert len(set(names)) == len(names) == 1 + 3 * (2 * 6 + 2 * 9 + 3)
    for job in planned:
        assert all(names.index(name) < names.index(job.name) for name in job.needs)


def test_a_job_counts_the_seconds_of_the_processor(tmp_path):
    script = tmp_path / "idle.py"
    script.write_text(
        "import json, time; time.sleep(1); print('more'); print(json.dumps({'seconds': 1.0}))"
    )
    result = _jobs.execute("idle", (str(script),), threads=1)
    assert result["seconds"] == 1.0
    assert 0 <= result["cpu_seconds"] < 0.5

    script.write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="idle failed with exit code 1: no such thing"):
        _jobs.execute("idle", (str(script),), threads=1)


def test_an_interrupted_comparison_does_not_start_what_is_left(tmp_path, monkeypatch):
    ran = []

    def slow(name, words, threads):
        ran.append(name)
        time.sleep(0.2)
        return {"seconds": 0.2}

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_jobs, "execute", slow)
    monkeypatch.setattr(_jobs, "wait", interrupt)
    planned = [_jobs.Job(f"job-{index}", {}, (str(index),)) for index in range(9)]
    with pytest.raises(KeyboardInterrupt):
        _jobs.run_all(planned, _jobs.Results(tmp_path / "results.jsonl"), streams=1, threads=1)
    assert len(ran) <= 2
