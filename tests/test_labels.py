"""multicrop labels: draws of labels, what is measured with them, and that nothing is measured twice."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from conftest import launch, recipe, result_of, rows_of
from probed import bank_of, faint_images, network, save

import multicrop
from multicrop.commands import _labels_frozen, finetune, labels
from multicrop.commands._finetune_data import labels_in_use
from multicrop.commands._labels_rows import Cell
from multicrop.config import auto_finetune
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.labels import Recipe
from multicrop.engine import seeds
from multicrop.pictures.labels import draw_label_efficiency
from multicrop.probes import linear
from multicrop.probes.knn import knn
from multicrop.supervised.label_draws import draw_labels

FEW = {"fractions": (10.0, 50.0), "draws": 2, "nb_knn": 5, "device": "cpu"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return faint_images(tmp_path_factory.mktemp("faint"))


@pytest.fixture(scope="module")
def model(images, tmp_path_factory):
    return save(tmp_path_factory.mktemp("labels") / "model.pt", images)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """A second each; the picture has a test of its own."""
    monkeypatch.setattr(labels, "draw_label_efficiency", lambda *words: None)


def run(model, folder, **values) -> dict:
    settings = {**FEW, "output_dir": str(folder), **values}
    return labels.run(recipe(Recipe, model=str(model), **settings))


def rows_in(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


# Draws


def test_a_draw_has_its_share_of_each_class_and_one_image_at_least():
    classes = torch.tensor([0] * 200 + [1] * 40 + [3] * 3)[torch.randperm(243)]
    for percent, counts in (
        (10, (20, 4, 1)),
        (1, (2, 1, 1)),
        (50, (100, 20, 2)),
        (100, (200, 40, 3)),
    ):
        used = draw_labels(classes, percent, seeds.generator(0, "labels"))
        assert tuple(classes[used].bincount()[[0, 1, 3]].tolist()) == counts
        assert torch.equal(used, used.unique())


def test_draws_are_functions_of_their_number_and_grow():
    classes = torch.arange(4).repeat(25)

    def drawn(percent, number):
        return set(draw_labels(classes, percent, seeds.generator(number, "labels")).tolist())

    assert drawn(20, 0) == drawn(20, 0) != drawn(20, 1)
    assert drawn(4, 0) < drawn(20, 0) < drawn(60, 0)


def test_finetune_uses_the_same_images_and_no_others(capsys):
    classes = torch.arange(3).repeat(20)
    for percent, number in ((10.0, 0), (50.0, 3), (100.0, 1)):
        own = recipe(Finetuning, scratch=True, label_percent=percent, label_draw=number)
        expected = Cell("pretrained", "knn", percent, number).labelled(classes)
        assert torch.equal(labels_in_use(own, classes), expected)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "--label_percent 10: 6 of 60 training images, draw 0" and len(said) == 2


# What is measured


def test_rows_are_those_of_the_draws_features_by_hand(model, images, tmp_path, capsys):
    result = run(model, tmp_path, raw_pixels=False, random_weights=False, linear_c=0.1)
    bank = bank_of(network(), images)
    assert len(rows_in(tmp_path)) == 2 * 2 * 2 == result["done"] and result["missing"] == 0
    for row in rows_in(tmp_path):
        random = seeds.generator(row["draw"], "labels")
        used = draw_labels(bank["train_labels"], row["percent"], random)
        own = {name: bank[name][used] for name in ("train_features", "train_labels")}
        if row["method"] == "knn":
            ((expected, _),) = knn(**bank | own, k=(5,), classes=3).values()
        else:
            expected = linear.linear_probe(**bank | own, c=0.1)
        assert row["top1"] == pytest.approx(expected, abs=1e-2) and row["images"] == len(used)
    curve = result["curves"][0]
    assert (curve["network"], curve["method"]) == ("pretrained", "knn")
    values = [row["top1"] for row in rows_in(tmp_path) if row["method"] == "knn"]
    assert curve["points"][0]["top1"] == pytest.approx(fmean(values[:2]), abs=1e-3)
    assert curve["points"][0]["top1_std"] == pytest.approx(stdev(values[:2]), abs=1e-3)
    assert json.loads((tmp_path / "labels.json").read_text()) == result
    table = capsys.readouterr().err.splitlines()
    assert any(
        line.startswith("images with labels") and line.split()[-2:] == ["6", "30"] for line in table
    )
    assert sum(line.startswith("pretrained, ") for line in table) == 2


def test_baselines_and_one_draw_of_all_labels(model, tmp_path):
    result = run(model, tmp_path, fractions=(100.0,), draws=3)
    names = [(curve["network"], curve["method"]) for curve in result["curves"]]
    random = "random weights, seed 7"
    assert names == [
        ("raw pixels", "knn"), (random, "knn"), (random, "linear"), ("pretrained", "knn"), ("pretrained", "linear"),
    ]  # fmt: skip
    for curve in result["curves"]:
        (point,) = curve["points"]
        assert point["draws"] == 1 and point["top1_std"] is None and point["images"] == 60


def test_a_share_that_leaves_a_class_none_is_said_once(model, tmp_path, capsys):
    result = run(model, tmp_path, fractions=(1.0, 2.0, 10.0), linear=False, raw_pixels=False)
    assert [point["images"] for point in result["curves"][0]["points"]] == [3, 3, 6]
    said = capsys.readouterr().err
    assert said.count("the smallest class has 20 training images: with 1, 2 percent") == 1


# Going on


@pytest.fixture
def measured(monkeypatch):
    """The cells that are measured, in their order."""
    calls = []
    whole = _labels_frozen.Frozen._measure

    def measure(self, method, target, network, used):
        calls.append((target.name.split(",")[0].split("/")[-1], method, len(used)))
        return whole(self, method, target, network, used)

    monkeypatch.setattr(_labels_frozen.Frozen, "_measure", measure)
    return calls


def test_what_is_there_is_not_measured_again(model, images, tmp_path, measured, capsys):
    few = {"raw_pixels": False, "random_weights": False}
    first = run(model, tmp_path, **few)
    assert len(measured) == 8
    second = run(model, tmp_path, **few)
    assert len(measured) == 8 and second["curves"] == first["curves"]
    assert f"8 of 8 rows are in {tmp_path / 'rows.jsonl'} already" in capsys.readouterr().err
    run(model, tmp_path, **few, fractions=(10.0, 50.0, 100.0))
    assert measured[8:] == [("model.pt", "knn", 60), ("model.pt", "linear", 60)]
    run(model, tmp_path, **few, linear_c=2.0)
    assert [method for _, method, _ in measured[10:]] == ["linear"] * 4
    other = save(tmp_path / "other.pt", images, seed=4)
    assert run(other, tmp_path, **few)["curves"] != first["curves"] and len(measured) == 22
    assert run(model, tmp_path, **few)["curves"] == first["curves"] and len(measured) == 22


def test_after_a_kill_the_half_of_a_line_is_not_a_row(model, tmp_path, measured):
    few = {"raw_pixels": False, "random_weights": False}
    first = run(model, tmp_path, **few)
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text[:-40])
    del measured[:]
    assert run(model, tmp_path, **few)["curves"] == first["curves"] and len(measured) == 1
    assert run(model, tmp_path, **few)["curves"] == first["curves"] and len(measured) == 1


class Stop:
    """An interrupt that comes after two rows."""

    def __init__(self):
        self.left = 3

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left == 0


def test_an_interrupted_measurement_goes_on(model, tmp_path, measured, monkeypatch):
    few = {"raw_pixels": False, "random_weights": False}
    with monkeypatch.context() as patch:
        patch.setattr(labels, "stoppable", Stop)
        stopped = run(model, tmp_path, **few)
    assert (stopped["status"], stopped["done"], stopped["missing"]) == ("interrupted", 2, 6)
    assert not (tmp_path / "labels.json").exists()
    finished = run(model, tmp_path, **few)
    assert finished["status"] == "finished" and len(measured) == 8


# Finetuning

TUNED = {
    "knn": False, "linear": False, "finetune": True, "finetune_epochs": 1, "fractions": (5.0, 50.0), "draws": 1,
}  # fmt: skip


@pytest.fixture
def tuned(monkeypatch):
    """The recipes of the runs of stage two."""
    recipes, whole = [], finetune.run

    def run(own):
        recipes.append(own)
        return whole(own)

    monkeypatch.setattr(finetune, "run", run)
    return recipes


def test_each_draw_is_a_run_of_stage_two(model, tmp_path, tuned, capsys):
    path = tmp_path / "tune.yaml"
    path.write_text("ra: 1\naa: false\nmix_prob: 0\nbatch_size: 20\nseed: 5\n")
    settings = {**TUNED, "scratch": True, "finetune_recipe": str(path)}
    result = run(model, tmp_path, **settings)
    kinds = [(own.start.scratch, own.run.label_percent) for own in tuned]
    assert kinds == [(True, 5.0), (True, 50.0), (False, 5.0), (False, 50.0)]
    for own in tuned:
        assert own.run.compile is False  # which could take longer than the run
        assert own.optimisation.seed == 5 and own.optimisation.epochs == 1
        assert own.optimisation.batch_size == {5.0: 2, 50.0: 20}[own.run.label_percent]
        assert own.run.val_fraction == 0 and own.backbone.embed_dim in (None, 16)
    rows = rows_in(tmp_path)
    for row, own in zip(rows, tuned, strict=True):
        stored = rows_of(Path(own.run.output_dir))[-1]
        assert row["top1"] == pytest.approx(stored["test_top1"], abs=1e-3)
    assert [row["images"] for row in rows] == [3, 30, 3, 30]
    assert "finetuning with 3 labels" in capsys.readouterr().err
    assert "epoch 1/1" in next((tmp_path / "finetune").glob("scratch-5-0-*/log.txt")).read_text()
    # Nothing again; of other settings in other folders
    assert run(model, tmp_path, **settings)["curves"] == result["curves"] and len(tuned) == 4
    run(
        model, tmp_path, **{**settings, "finetune_epochs": 2, "fractions": (5.0,), "scratch": False}
    )
    assert len(tuned) == 5 and len({own.run.output_dir for own in tuned}) == 5


def test_what_auto_chooses_tells_rows_of_another_rule_apart(model, tmp_path, tuned, monkeypatch):
    settings = {**TUNED, "finetune_recipe": "auto", "fractions": (50.0,)}
    run(model, tmp_path, **settings)
    assert (tuned[0].optimisation.lr, tuned[0].optimisation.clip_grad) == (3e-3, 1)
    monkeypatch.setattr(auto_finetune, "RATE", 2e-3)
    run(model, tmp_path, **settings)
    assert [own.optimisation.lr for own in tuned] == [3e-3, 2e-3]


def test_a_run_that_is_stopped_stops_the_command(model, tmp_path, tuned, monkeypatch):
    monkeypatch.setattr(finetune, "run", lambda own: {"status": "interrupted"})
    stopped = run(model, tmp_path, **TUNED)
    assert (stopped["status"], stopped["done"], stopped["missing"]) == ("interrupted", 0, 2)


# What it says and refuses


def test_a_picture_that_fails_loses_nothing(model, tmp_path, monkeypatch, capsys):
    def broken(*_words):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(labels, "draw_label_efficiency", broken)
    result = run(model, tmp_path, raw_pixels=False, random_weights=False)
    assert result["status"] == "finished" and (tmp_path / "labels.json").exists()
    assert capsys.readouterr().err.count("RuntimeError: no fonts here; all else goes on") == 1


def test_the_picture(tmp_path):
    points = [
        {"percent": percent, "top1": percent / 2, "top1_std": spread}
        for percent, spread in ((1, 0.3), (10, 2.0), (100, None))
    ]
    curves = [
        {"network": "$a_1", "method": method, "points": points} for method in ("knn", "linear")
    ]
    draw_label_efficiency(curves, "shapes", tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 5000


def test_what_it_refuses(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--fractions 1.0 200.0: must be above 0"):
        run(model, tmp_path, fractions=(1.0, 200.0))
    with pytest.raises(ValueError, match=r"recipe .*nowhere.yaml: there is no such file"):
        run(model, tmp_path, **{**TUNED, "finetune_recipe": "nowhere.yaml"})
    with pytest.raises(OSError, match=r"cannot write .*model.pt/x"):
        run(model, model / "x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        run(model, tmp_path)


def test_a_finetuned_network_has_seen_labels(model, images, tmp_path, capsys):
    weights = {f"backbone.{name}": value for name, value in network().state_dict().items()}
    path = save(tmp_path / "ft.pt", images, kind="finetune", model=weights)
    run(path, tmp_path, linear=False, raw_pixels=False)
    assert f"{path} was finetuned: its features have seen all labels" in capsys.readouterr().err


def test_from_python(model, tmp_path):
    flags = {"fractions": [50], "draws": 1, "random_weights": False, "device": "cpu"}
    result = multicrop.labels(model, **flags, output_dir=tmp_path)
    assert {curve["network"] for curve in result["curves"]} == {"raw pixels", "pretrained"}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(model, tmp_path):
    alone = run(model, tmp_path / "one")
    words = ["--fractions", "10", "50", "--draws", "2", "--nb_knn", "5"]
    two = result_of(launch("labels", model, *words, "--output_dir", tmp_path / "two", ranks=2))
    for curve, other in zip(alone["curves"], two["curves"], strict=True):
        for point, same in zip(curve["points"], other["points"], strict=True):
            assert same["top1"] == pytest.approx(point["top1"], abs=5)
    assert len(rows_in(tmp_path / "two")) == len(rows_in(tmp_path / "one"))
