"""--head_init linear: finetuning begins from logistic regression on the features."""

import pytest
import torch
from conftest import content_of, recipe, same
from finetuning import PLAIN, networks, run

from multicrop.commands._inherited import head_init
from multicrop.config.finetune import Recipe
from multicrop.probes import linear

STILL = {**PLAIN, "lr": 1e-12, "epochs": 1, "max_steps": 1, "head_init": "linear"}


def blobs(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy points around a centre for each class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    centres = 3 * torch.randn(classes, 5, generator=generator)
    return centres[labels] + torch.randn(60, 5, generator=generator), labels


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_layer_gives_the_probabilities_of_the_regression(classes):
    features, labels = blobs(classes)
    regression = linear.fit(features, labels)
    weight, bias = regression.layer(classes)
    expected = torch.from_numpy(regression.pipeline.predict_proba(features.numpy()))
    given = (features @ weight.T + bias).softmax(1)
    assert torch.allclose(given, expected.float(), atol=1e-5)


def test_a_class_without_images_is_never_predicted():
    features, labels = blobs(3)
    weight, bias = linear.fit(features, labels * 2).layer(6)  # of classes 0, 2 and 4
    predicted = (features @ weight.T + bias).argmax(1)
    assert weight.shape == (6, 5) and set(predicted.tolist()) == {0, 2, 4}


def test_untrained_features_are_told_apart_before_the_first_step(colours, tmp_path, capsys):
    result = run(colours, tmp_path / "linear", **STILL, ema_decay=0.5)
    assert "logistic regression on the features of" in capsys.readouterr().err
    assert result["test_top1"] > 80 and result["ema_test_top1"] > 80
    normal = run(colours, tmp_path / "normal", **STILL | {"head_init": "normal"})
    assert normal["test_top1"] < 60


def test_a_resumed_run_does_not_fit_again(colours, tmp_path, capsys):
    settings = {**PLAIN, "head_init": "linear", "epochs": 2}
    run(colours, tmp_path / "whole", **settings)
    run(colours, tmp_path / "cut", **settings, max_steps=5)
    capsys.readouterr()
    run(colours, tmp_path / "cut", **settings)
    assert "logistic regression" not in capsys.readouterr().err
    same(networks(tmp_path / "whole"), networks(tmp_path / "cut"))


def test_two_heads_are_fitted_on_their_own_tokens(colours, tmp_path):
    result = run(colours, tmp_path, **STILL, arch="deit_tiny_distilled")
    state = content_of(tmp_path / "checkpoint.pt")["model"]
    assert result["test_top1"] > 80
    assert not torch.equal(state["head.weight"], state["distill_head.weight"])


def test_scikit_learn_is_missed_before_anything_is_written(colours, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        run(colours, tmp_path / "run", **STILL)
    assert not (tmp_path / "run").exists()


def test_what_it_began_from_is_stored(colours, tmp_path):
    run(colours, tmp_path, **STILL)
    assert content_of(tmp_path / "checkpoint.pt")["recipe"]["head_init"] == "linear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pretrained_weights": "w.pt"}, "linear"),
        ({"pretrained_weights": "w.pt", "dataset": "cifar10"}, "normal"),
        ({"pretrained_weights": "w.pt", "head_init": "zero"}, "zero"),
        ({"scratch": True}, "normal"),
    ],
)
def test_what_is_not_stated(values, expected):
    settings = {"dataset": "image_folder", **values}
    assert head_init(recipe(Recipe, **settings)) == expected
