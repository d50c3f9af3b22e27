"""KoLeo: features of a batch spread out."""

import math

import pytest
import torch
from torch import Tensor

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
