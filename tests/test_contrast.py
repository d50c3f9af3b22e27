"""The contrast of a batch's images. tests/test_simclr.py has the sum in its plainest form."""

import math

import pytest
import torch

from multicrop.ssl.contrast import contrast
from multicrop.ssl.objectives.simclr import Objective


def test_it_is_the_loss_of_simclr_at_a_temperature_of_its_own():
    outputs = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    objective = Objective(dim=4, hidden=4, projection=7, batch=5, temperature=0.2)
    assert contrast(outputs).equal(objective.loss(outputs))


def test_its_gradient_brings_the_crops_of_an_image_together():
    outputs = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = contrast(outputs)
    before.backward()
    with torch.no_grad():
        assert contrast(outputs - outputs.grad) < before


def test_alike_it_is_the_logarithm_of_the_others():
    assert float(contrast(torch.ones(2, 6, 3))) == pytest.approx(math.log(11))


def test_half_precision_is_measured_in_float32():
    outputs = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = contrast(outputs)
    assert value.dtype == torch.float32 and value.equal(contrast(outputs.float()))
