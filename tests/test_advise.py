"""multicrop advise: halving and words on made-up numbers, and the command on tiny images."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multicrop
from multicrop import cli
from multicrop.commands import advise, finetune
from multicrop.commands._advise_halving import (
    CANDIDATES,
    Candidate,
    Round,
    Trial,
    ranking,
    rounds_of,
    separated,
    standard_error,
    uncertainty,
    units_of,
    winner_of,
)
from multicrop.commands._advise_images import command, look
from multicrop.commands._advise_plan import Plan
from multicrop.commands._advise_words import (
    doubling,
    duration,
    label_line,
    pretraining_line,
    table,
    time_line,
    verdict,
    winner_line,
)
from multicrop.config.advise import Recipe
from multicrop.engine import checkpoint
from multicrop.engine.interrupt import Interrupt

NAMES = [candidate.name for candidate in CANDIDATES]


def trial(
    name: str, top1: float, number: int = 1, *, images: int = 1000, labels: float = 1
) -> Trial:
    return Trial(name, number, 2 ** (number - 1), labels, top1, images, seconds=7.0)


# Halving


@pytest.mark.parametrize(
    ("count", "rounds"),
    [
        (1, [(1, 1, 1)]),
        (2, [(1, 2, 1)]),
        (3, [(1, 3, 1), (2, 2, 2)]),
        (7, [(1, 7, 1), (2, 4, 2), (3, 2, 4)]),
        (9, [(1, 9, 1), (2, 5, 2), (3, 3, 4), (4, 2, 8)]),
    ],
)
def test_the_better_half_goes_on_with_twice_as_much(count: int, rounds: list):
    assert rounds_of(count) == [Round(*entry) for entry in rounds]


def test_the_budget_holds_all_rounds_and_the_trial_of_half_the_labels():
    assert units_of(rounds_of(7)) == 7 + 4 * 2 + 2 * 4 + 4


def test_a_guide_stands_before_those_it_guides():
    for candidate in CANDIDATES:
        if candidate.guide:
            assert NAMES.index(candidate.guide) < NAMES.index(candidate.name)
    assert len(set(NAMES)) == 7


def test_the_cheaper_of_equals_ranks_first():
    trials = [trial("vit-two-stage", 50), trial("guided", 50), trial("cct-scratch", 40)]
    assert [one.candidate for one in ranking(trials, NAMES)] == [
        "guided",
        "vit-two-stage",
        "cct-scratch",
    ]


def test_standard_errors_are_binomial_and_never_zero():
    assert standard_error(50, 10_000) == pytest.approx(0.5, rel=1e-3)
    assert standard_error(80, 400) == pytest.approx(2, rel=0.01)
    assert standard_error(100, 8) > 5 and standard_error(0, 8) > 5
    one, other = trial("guided", 50), trial("cct-scratch", 50)
    assert uncertainty(one, other) == pytest.approx(2 * 2**0.5 * standard_error(50, 1000))


def test_few_images_separate_nothing():
    for images, apart in ((8, False), (1000, True)):
        one = trial("guided", 75, images=images)
        assert separated(one, trial("cct-scratch", 62.5, images=images)) is apart


def test_the_winner_is_the_cheapest_of_those_that_cannot_be_told_from_the_best():
    clear = [trial("vit-two-stage", 70), trial("resnet-scratch", 50)]
    assert winner_of(clear, NAMES).candidate == "vit-two-stage"
    close = [trial("vit-two-stage", 70), trial("resnet-scratch", 69)]
    assert winner_of(close, NAMES).candidate == "resnet-scratch"
    later = [*close, trial("vit-two-stage", 80, 2)]
    assert winner_of(later, NAMES).candidate == "vit-two-stage"


# Words


def test_a_clear_win_is_said_with_its_margin():
    line = winner_line([trial("guided", 70), trial("cct-scratch", 50)], NAMES)
    assert line.startswith("guided wins over cct-scratch by 20.0 points, more than the uncertainty")


def test_what_cannot_be_separated_is_said_and_the_cheaper_recommended():
    trials = [trial("vit-two-stage", 70), trial("resnet-scratch", 69)]
    line = winner_line(trials, NAMES)
    assert line.startswith("vit-two-stage and resnet-scratch cannot be separated: ")
    assert "leads resnet-scratch by 1.0 points, not more than" in line
    assert line.endswith("the cheaper to go on with: resnet-scratch.")


def test_pretraining_is_judged_in_the_last_round_that_had_both():
    first = [trial("cct-scratch", 60), trial("guided", 55), trial("cct-two-stage", 40)]
    last = [trial("cct-scratch", 70, 2), trial("guided", 65, 2)]
    line = pretraining_line([*first, *last], CANDIDATES)
    assert line.startswith("Do not pretrain") and "in round 1" in line and "-20.0 ±" in line
    better = [trial("cct-two-stage", 90, 2), *last]
    assert pretraining_line([*first, *better], CANDIDATES).startswith("Pretrain: ")
    close = [trial("cct-two-stage", 71, 2), *last]
    assert "cannot be said" in pretraining_line([*first, *close], CANDIDATES)
    assert pretraining_line(last, CANDIDATES) == ""


def test_twice_the_time():
    trials = [trial("guided", 50), trial("guided", 56, 2)]
    assert doubling(trials, trials[1]) == 6 and doubling(trials, trials[0]) is None
    assert "about 6.0 points" in time_line(6)
    assert "nothing that shows" in time_line(-0.5)
    assert "not known" in time_line(None)


def test_more_labels_are_asked_for_where_they_bring_more_than_time():
    winner, half = trial("guided", 60, 2), trial("guided", 50, 2, labels=0.5)
    assert label_line(winner, half, 4).startswith(
        "Label more images: the last doubling of the labels brought +10.0"
    )
    assert label_line(winner, half, 12).startswith("Labels: ")
    assert label_line(winner, half, None).startswith("Labels: ")
    assert label_line(winner, replace(half, top1=61), -5).startswith("Labels: ")
    assert "(within the uncertainty)" in label_line(winner, replace(half, top1=59), 0)


def test_the_table_has_a_line_per_candidate_and_a_column_per_round():
    trials = [trial("guided", 50), trial("cct-scratch", 40), trial("guided", 56, 2)]
    head, columns, best, other = table(trials, NAMES)
    assert "1000 validation images" in head
    assert columns.split("  ")[0] == "candidate" and "round 2 (2 units)" in columns
    assert best.startswith("guided") and "50.0 ± 1.6, 7 s" in best and "56.0 ± 1.6, 7 s" in best
    assert other.startswith("cct-scratch") and len(other) < len(best)


def test_the_verdict_has_all_parts():
    trials = [trial("guided", 50), trial("cct-two-stage", 30), trial("guided", 56, 2)]
    half = trial("guided", 40, 2, labels=0.5)
    only, pretraining, time, labels = verdict(trials, CANDIDATES, half, 10)
    assert "only candidate" in only and pretraining.startswith("Do not pretrain")
    assert "6.0 points" in time and labels.startswith("Label more")
    assert len(verdict(trials, CANDIDATES, None, 10)) == 3
    assert verdict(trials, CANDIDATES, None, 55)[0].startswith("Nothing has learnt enough")


def test_durations_and_commands_are_for_people():
    assert [duration(seconds) for seconds in (7.4, 600, 7200)] == ["7 s", "10 min", "2.0 h"]
    flags = {"datapath": "my photos", "aa": False, "local_crops_scale": (0.2, 0.5)}
    line = command("train_ssl.py", flags)
    assert (
        line == "python train_ssl.py --datapath 'my photos' --aa false --local_crops_scale 0.2 0.5"
    )


# The command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 images of 12 x 12 px in two classes, bright above or below, and 8 for testing."""
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label in range(2):
            folder = tmp_path / "photos" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (12, 12, 3), dtype=np.uint8)
                pixels[6 * label : 6 * label + 6] += 60
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "photos"


def test_dry_looks_and_trains_nothing(photos: Path, tmp_path: Path, capsys):
    result = multicrop.advise(photos, dry=True, output_dir=tmp_path / "out", device="cpu")
    assert result["status"] == "finished" and json.dumps(result)
    facts = result["facts"]
    assert (facts["images"], facts["side"], facts["classes"], facts["fewest"]) == (40, 12, 2, 20)
    assert result["settings"]["image_size"] == 32 and result["settings"]["epochs"] > 0
    first, second = result["commands"]
    assert first.startswith("python train_ssl.py --recipe auto --dataset image_folder")
    assert second.startswith("python finetune.py --dataset image_folder")
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert "40 training images of 12 px, 2 classes of 20 to 20" in said
    assert "--image_size 32: the shorter sides" in said and first in said


def test_without_labels_there_is_advice_for_stage_one_alone(photos: Path, tmp_path: Path, capsys):
    folder = photos / "train" / "class0"
    result = multicrop.advise(folder, dataset="images", output_dir=tmp_path / "out", device="cpu")
    assert len(result["commands"]) == 1 and "trials" not in result
    assert "only stage one can be advised" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "--minutes 0.0: must be positive"),
        (["--steps", "9", "--minutes", "1"], "is in place of --minutes"),
    ],
)
def test_budgets_that_cannot_be_are_refused(words: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        cli.parse(Recipe, ["photos", *words])


def test_too_few_steps_are_refused_before_anything_is_written(photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="--steps 20: the trials need at least 54"):
        multicrop.advise(photos, steps=20, output_dir=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("per_class", "batch"), [(20, 8), (2000, 64)])
def test_trials_of_stage_two_have_the_batches_of_auto(photos: Path, per_class: int, batch: int):
    recipe = cli.parse(Recipe, [str(photos), "--steps", "60", "--device", "cpu"])
    images = replace(look(recipe), labels=torch.arange(2).repeat(per_class))
    plan = Plan(recipe, images, rounds_of(len(CANDIDATES)))
    assert plan.finetuning(CANDIDATES[0], 2, None, "round1")["batch_size"] == batch


SMALL = (
    Candidate("resnet-scratch", "resnet8"),
    Candidate("guided", "vit", guide="resnet-scratch"),
    Candidate("resnet-two-stage", "resnet8", pretrains=True),
)


def without_times(result: dict) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name in ("candidate", "round", "labels", "top1", "images")}
        for row in result["trials"]
    ]  # fmt: skip


def networks_of(folder: Path) -> dict:
    """The weights that every stage left, by its folder."""
    weights = {}
    for path in sorted(folder.rglob("checkpoint.pt")):
        state = checkpoint.load(path).state
        weights[str(path.relative_to(folder))] = state.get("teacher", state.get("model"))
    return weights


@pytest.mark.slow
def test_steps_are_reproducible_and_what_has_finished_is_kept(
    photos: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(advise, "CANDIDATES", SMALL)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    budget = {"steps": 36, "device": "cpu"}  # 3 x 1 + 2 x 2 + 2 units of 4 steps
    result = multicrop.advise(photos, output_dir=whole, **budget)
    assert result["status"] == "finished" and result["winner"] in [one.name for one in SMALL]
    assert [(row["round"], row["labels"]) for row in result["trials"]] == [
        (1, 1), (1, 1), (1, 1), (2, 1), (2, 1), (2, 0.5),
    ]  # fmt: skip
    assert {row["images"] for row in result["trials"]} == {8, 24}
    assert (whole / "guided" / "log.txt").read_text()

    # Stopped in the second trial: the first one is not run again.
    real, calls = finetune.run, []

    def failing(recipe):
        calls.append(recipe.run.output_dir)
        assert recipe.run.compile is False  # which could take longer than a trial
        if len(calls) == 2:
            raise RuntimeError("the machine is gone")
        return real(recipe)

    monkeypatch.setattr(finetune, "run", failing)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        multicrop.advise(photos, output_dir=cut, **budget)
    assert len((cut / "trials.jsonl").read_text().splitlines()) == 1
    again = multicrop.advise(photos, output_dir=cut, **budget)
    assert calls.count(calls[0]) == 1 and len(calls) == 7
    assert without_times(again) == without_times(result)
    assert again["winner"] == result["winner"]
    ours, theirs = networks_of(cut), networks_of(whole)
    assert ours.keys() == theirs.keys() and len(ours) >= 6
    for name, weights in ours.items():
        assert all(value.equal(theirs[name][key]) for key, value in weights.items()), name

    with pytest.raises(ValueError, match=r"holds other trials.*seed 0 \(now 1\)"):
        multicrop.advise(photos, output_dir=cut, seed=1, **budget)

    # A folder of a version whose auto took another network
    file = cut / "advise.json"
    stored = json.loads(file.read_text())
    del stored["settings"]["network"]
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"holds other trials.*network None \(now "):
        multicrop.advise(photos, output_dir=cut, **budget)


@pytest.mark.slow
def test_the_command_that_goes_on_resumes_stage_one(photos: Path, tmp_path: Path, monkeypatch):
    two_stage = Candidate("two-stage", "resnet8", pretrains=True)
    second = Candidate("other", "resnet8", pretrains=True)
    third = Candidate("third", "resnet8", pretrains=True)
    monkeypatch.setattr(advise, "CANDIDATES", (two_stage, second, third))
    result = multicrop.advise(photos, steps=72, output_dir=tmp_path / "out", device="cpu")
    first, tune = result["commands"]
    folder = tmp_path / "out" / result["winner"] / "ssl"
    before = checkpoint.load(folder / "checkpoint.pt").metadata
    assert "--max_steps" not in first and f"--pretrained_weights {folder}" in tune
    from multicrop.commands import pretrain
    from multicrop.config.pretrain import Recipe as Pretraining

    more = before.step + 1
    done = pretrain.run(cli.parse(Pretraining, [*first.split()[2:], "--max_steps", str(more)]))
    assert done["status"] in ("stopped", "finished") and done["step"] == more > 1


@pytest.mark.slow
def test_a_stopped_run_stops_the_command(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(advise, "CANDIDATES", SMALL)
    monkeypatch.setattr(finetune, "run", lambda recipe: {"status": "interrupted"})
    result = multicrop.advise(photos, steps=36, output_dir=tmp_path / "out", device="cpu")
    assert result["status"] == "interrupted"
    assert not (tmp_path / "out" / "trials.jsonl").exists()


def test_a_signal_within_a_run_reaches_the_command():
    with Interrupt() as outer:
        with Interrupt() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.asked and outer.asked


@pytest.mark.slow
def test_minutes_become_steps_by_measured_speeds(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(advise, "CANDIDATES", SMALL[:1])
    result = multicrop.advise(photos, minutes=0.05, output_dir=tmp_path / "out", device="cpu")
    speeds = json.loads((tmp_path / "out" / "advise.json").read_text())["speeds"]
    assert speeds["resnet8, finetune"] > 0
    assert (
        result["winner"] == "resnet-scratch"
        and "On a GPU this is unmeasured" in result["verdict"][-1]
    )
