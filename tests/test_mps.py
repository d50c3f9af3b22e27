"""What can be said of MPS without one: operations.py. No step has run there."""

import operations
import pytest
import torch

from multicrop.augment import device

SLOW = [
    name if name in ("vit", "stage two") else pytest.param(name, marks=pytest.mark.slow)
    for name in operations.FAMILIES
]


@pytest.mark.parametrize("family", SLOW)
def test_a_step_has_no_float64_there_and_asks_for_what_there_is(family):
    noted = operations.noted(family)
    assert noted.double == set()
    assert len(noted.names) > 80
    if torch.__version__.startswith("2.14."):  # other versions have other kernels
        assert operations.without_kernel(noted.names) == []


def test_what_has_no_kernel_is_named():
    assert operations.without_kernel({"ormqr.default", "bmm.default"}) == ["ormqr.default"]


def test_float64_is_sent_as_float32_where_there_is_none(monkeypatch):
    numbers = torch.ones(2, dtype=torch.float64)
    assert device.send(numbers, "meta").dtype == torch.float64
    monkeypatch.setattr(device, "has_float64", lambda _: False)
    assert device.send(numbers, "meta").dtype == torch.float32


def test_mps_has_none():
    assert [device.has_float64(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [1, 1, 0]
