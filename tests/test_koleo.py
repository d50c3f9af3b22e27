"""KoLeo: features of a batch spread out; stage one with it reports what it reported without."""

import math

import pytest
import torch
from conftest import recipe, rows_of
from torch import Tensor

from multicrop.commands import pretrain
from multicrop.commands._student import build
from multicrop.config.pretrain import Recipe
from multicrop.ssl.koleo import koleo


def one_at_a_time(features: Tensor) -> float:
    """Equation 2 of Sablayrolles et al. 2019 in its plainest form, for one view (B, D)."""
    unit = [row / row.norm() for row in features.double()]
    nearest = [
        min(float((a - b).norm()) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)
    ]
    return -sum(map(math.log, nearest)) / len(nearest)


def test_it_is_the_mean_over_views_of_the_published_sum():
    features = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = (one_at_a_time(features[0]) + one_at_a_time(features[1])) / 2
    assert float(koleo(features)) == pytest.approx(expected, abs=1e-5)


def test_opposite_features_have_the_least_value():
    features = torch.tensor([[[3.0, 0.0], [-1.0, 0.0]]])
    assert float(koleo(features)) == pytest.approx(-math.log(2), abs=1e-6)


def test_equal_features_have_a_finite_value_and_gradient():
    features = torch.ones(1, 4, 3, requires_grad=True)
    value = koleo(features)
    value.backward()
    assert value.isfinite() and features.grad.isfinite().all()


def test_its_gradient_drives_features_apart():
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]], requires_grad=True)
    before = koleo(features)
    before.backward()
    with torch.no_grad():
        assert koleo(features - 0.1 * features.grad) < before


def test_half_precision_is_measured_in_float32():
    features = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = koleo(features)
    assert value.dtype == torch.float32
    assert float(value) == float(koleo(features.float()))


def settings_of(folder, images, **more) -> Recipe:
    return recipe(
        Recipe, dataset="image_folder", datapath=str(images), output_dir=str(folder), image_size=16, embed_dim=24,
        num_layers=1, num_heads=2, out_dim=16, local_crops_number=2, batch_size_per_gpu=8, device="cpu", log_freq=1,
        knn_freq=0, warmup_epochs=0, epochs=2, lr=0.05, freeze_last_layer=0, **more,
    )  # fmt: skip


def steps_of(folder) -> list[dict]:
    return [row for row in rows_of(folder) if "loss" in row]


def test_a_run_reports_the_objective_as_without_it_and_koleo_beside(colours, tmp_path):
    pretrain.run(settings_of(tmp_path / "without", colours))
    pretrain.run(settings_of(tmp_path / "with", colours, koleo_weight=1.0))
    without, spread = steps_of(tmp_path / "without"), steps_of(tmp_path / "with")
    assert (
        spread[0]["loss"] == without[0]["loss"]
    )  # the same weights and crops, before the first step
    assert spread[-1]["loss"] != without[-1]["loss"]
    assert spread[-1]["koleo"] < spread[0]["koleo"]
    assert not any("koleo" in row for row in without)


def test_a_run_resumes_bit_equal(colours, tmp_path):
    pretrain.run(settings_of(tmp_path / "whole", colours, koleo_weight=0.1))
    pretrain.run(settings_of(tmp_path / "parts", colours, koleo_weight=0.1, max_steps=2))
    pretrain.run(settings_of(tmp_path / "parts", colours, koleo_weight=0.1))
    found = [[row["koleo"] for row in steps_of(tmp_path / name)] for name in ("whole", "parts")]
    assert found[0] == found[1]


def test_a_negative_weight_and_a_batch_of_one_are_refused():
    with pytest.raises(ValueError, match="koleo_weight"):
        recipe(Recipe, koleo_weight=-0.1)
    alone = recipe(Recipe, koleo_weight=0.1, batch_size_per_gpu=1)
    with pytest.raises(ValueError, match=r"koleo_weight.*batch_size_per_gpu 2"):
        build(alone, 3, torch.device("cpu"))


def test_older_runs_had_none():
    assert Recipe.ADDED["koleo_weight"] == 0
