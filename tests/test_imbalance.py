"""Classes with unequally many images: what is measured, selected, drawn, weighed and said."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import content_of, recipe, rows_of, same
from finetuning import PLAIN, networks, run

from multicrop.commands import knn
from multicrop.config.finetune import Recipe
from multicrop.config.knn import Recipe as Probing
from multicrop.engine import sampling
from multicrop.probes.accuracy import balanced_accuracy, macro_f1
from multicrop.supervised.class_weights import inverse_frequencies
from multicrop.supervised.objectives.cross_entropy import Objective
from multicrop.supervised.selection import BestEpoch

LABELS = torch.tensor([0] * 18 + [1] * 6 + [3] * 2)


@pytest.fixture(scope="module")
def unequal(colours, tmp_path_factory):
    """20 red, 8 green and 2 blue training images; 8 red and 3 green test images and no blue one."""
    root = tmp_path_factory.mktemp("unequal")
    counts = {
        "train": {"red": 20, "green": 8, "blue": 2},
        "test": {"red": 8, "green": 3, "blue": 0},
    }
    for split, of_class in counts.items():
        for name, count in of_class.items():
            (root / split / name).mkdir(parents=True)
            for path in sorted((colours / split / name).iterdir())[:count]:
                shutil.copy(path, root / split / name / path.name)
    return root


# Measured


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_and_macro_f1_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    predictions = torch.randint(4, LABELS.shape, generator=torch.Generator().manual_seed(0))
    expected = metrics.balanced_accuracy_score(LABELS, predictions)
    assert balanced_accuracy(predictions == LABELS, LABELS) == pytest.approx(
        100 * expected, abs=1e-3
    )
    expected = metrics.f1_score(LABELS, predictions, average="macro")
    assert macro_f1(predictions, LABELS) == pytest.approx(100 * expected, abs=1e-3)


def test_a_classifier_of_the_largest_class_alone():
    largest = torch.zeros_like(LABELS)
    assert balanced_accuracy(largest == LABELS, LABELS) == pytest.approx(100 / 3, abs=1e-3)
    assert macro_f1(largest, LABELS) == pytest.approx(100 * 2 * 18 / (18 + 26) / 3, abs=1e-3)


def test_results_rows_and_lines_have_them(unequal, tmp_path, capsys):
    result = run(unequal, tmp_path, epochs=1, val_fraction=0.3, ema_decay=0.9, **PLAIN)
    for name in ("test", "ema_test", "selected_test"):
        assert {f"{name}_balanced_accuracy", f"{name}_macro_f1"} <= result.keys()
    row = next(row for row in rows_of(tmp_path) if "val_top1" in row)
    assert {"val_balanced_accuracy", "val_macro_f1"} <= row.keys()
    assert f"balanced {result['test_balanced_accuracy']:.2f}" in capsys.readouterr().err


def test_the_knn_probe_shows_it_where_test_images_are_unequally_many(unequal, colours, capsys):
    settings = {"arch": "vit", "embed_dim": 16, "num_layers": 1, "num_heads": 2, "image_size": 16}
    settings |= {"nb_knn": (1, 3), "device": "cpu", "dataset": "image_folder"}
    for images, shown in ((unequal, True), (colours, False)):
        found = knn.run(recipe(Probing, datapath=str(images), **settings))["results"]
        assert ("balanced 3" in capsys.readouterr().err) == shown
        for row in found:
            equal = row["balanced_accuracy"]["3"] == pytest.approx(row["top1"]["3"], abs=1e-3)
            assert equal != shown or row["top1"]["3"] in (0, 100)


# Selected


def test_the_balanced_accuracy_selects(unequal, tmp_path):
    options = {"epochs": 4, "val_fraction": 0.3, "lr": 0.01, "warmup": 0, **PLAIN}
    result = run(unequal, tmp_path, select="balanced", **options)
    measured = {
        row["epoch"]: row["val_balanced_accuracy"] for row in rows_of(tmp_path) if "val_top1" in row
    }
    best = max(measured.values())
    assert result["selected_val_balanced_accuracy"] == best
    assert result["selected_epoch"] == min(
        epoch for epoch, value in measured.items() if value == best
    )
    assert content_of(tmp_path / "checkpoint.pt")["best"]["val_balanced_accuracy"] == best
    with pytest.raises(ValueError, match=r"select balanced \(now top1\)"):
        run(unequal, tmp_path, select="top1", **options)


def test_states_of_older_runs_are_top1():
    best = BestEpoch()
    best.load_state_dict({"val_top1": 50.0, "epoch": 3})
    assert not best.improve(50.0, 4) and best.improve(51.0, 4)
    assert best.state_dict() == {"val_top1": 51.0, "epoch": 4}
    assert Recipe.ADDED["select"] == "top1" and Recipe.ADDED["class_weights"] == "none"


# Drawn


def test_every_class_comes_equally_often():
    order = sampling.balanced(LABELS, seed=0, epoch=0, passes=2)
    counts = LABELS[order].bincount()
    assert len(order) == 2 * len(LABELS) and counts.sum() == 52
    assert sorted(counts.tolist()) == [0, 17, 17, 18]
    order = sampling.balanced(LABELS, seed=0, epoch=0, passes=3)
    assert LABELS[order].bincount().tolist() == [26, 26, 0, 26]
    for label in (0, 1, 3):
        images, times = order[LABELS[order] == label].unique(return_counts=True)
        assert len(images) == (label == LABELS).sum() and times.max() - times.min() <= 1


def test_the_order_is_a_function_of_seed_and_epoch():
    first = sampling.balanced(LABELS, 0, 1)
    assert torch.equal(first, sampling.balanced(LABELS, 0, 1))
    assert not torch.equal(first, sampling.balanced(LABELS, 0, 2))
    assert not torch.equal(first, sampling.balanced(LABELS, 1, 1))


def test_a_resumed_balanced_run_is_bit_equal(unequal, tmp_path):
    options = {"balanced_sampler": True, "batch_size": 6, "epochs": 2}
    run(unequal, tmp_path / "whole", **options)
    run(unequal, tmp_path / "parts", max_steps=3, **options)
    run(unequal, tmp_path / "parts", **options)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))


# Weighed


def test_weights_are_scikit_learns_and_their_mean_over_images_is_1():
    weights = inverse_frequencies(LABELS, 4)
    assert weights.tolist() == pytest.approx([26 / 54, 26 / 18, 0, 26 / 6])
    assert weights[LABELS].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_an_images_loss_is_multiplied_by_its_classs_weight(share):
    logits = torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(0))
    weights, partners = inverse_frequencies(LABELS, 4), LABELS.flip(0)
    losses = [
        F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none") * weights[labels]
        for labels in (LABELS, partners)
    ]
    expected = (share * losses[0] + (1 - share) * losses[1]).mean()
    found = Objective(0.1, weights)(logits, LABELS, partners, share)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    halves = [
        Objective(0.1, weights)(logits[rows], LABELS[rows]) for rows in (slice(13), slice(13, 26))
    ]
    whole = Objective(0.1, weights)(logits, LABELS)
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_weighted_run_trains_resumes_and_reports_plain_losses(unequal, tmp_path):
    options = {"class_weights": "auto", "batch_size": 6, "epochs": 2}
    whole = run(unequal, tmp_path / "whole", **options)
    run(unequal, tmp_path / "parts", max_steps=3, **options)
    run(unequal, tmp_path / "parts", **options)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))
    assert run(unequal, tmp_path / "whole", eval=True)["test_loss"] == whole["test_loss"]
    plain = run(unequal, tmp_path / "plain", batch_size=6, epochs=2)
    assert plain["test_loss"] != whole["test_loss"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"balanced_sampler": True, "class_weights": "auto"}, "take one of them"),
        ({"balanced_sampler": True, "repeats": 3, "ra": 1}, "goes with --repeats 1 only"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, says):
    with pytest.raises(ValueError, match=says):
        recipe(Recipe, **flags)


# Said


def test_unequal_classes_and_those_without_test_images_are_said(unequal, tmp_path, capsys):
    once = {"max_steps": 1, "batch_size": 6, "val_fraction": 0.0}
    run(unequal, tmp_path / "a", **once)
    said = capsys.readouterr().err
    assert "20 training images of red and 2 of blue: look at the balanced accuracy" in said
    for flag in ("--balanced_sampler", "--class_weights auto", "--select balanced"):
        assert flag in said
    assert "1 of 3 classes have no test images: blue" in said
    run(unequal, tmp_path / "b", balanced_sampler=True, select="balanced", **once)
    assert "--class_weights auto" not in capsys.readouterr().err


def test_equal_classes_are_not_warned_of(colours, tmp_path, capsys):
    run(colours, tmp_path, max_steps=1)
    assert "warning" not in capsys.readouterr().err
