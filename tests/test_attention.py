"""probes/attention.py against recorded heat maps and masks."""

import numpy as np
import pytest
import torch

from multicrop.probes.attention import heat_maps, mass_masks


@pytest.fixture
def recorded(recordings):
    return np.load(recordings / "two_stage_ssl" / "attention_mask.npz")


def test_heat_maps_are_the_published_ones(recorded):
    found = heat_maps(torch.from_numpy(recorded["attention"]), 32)
    assert found.shape == (len(recorded["attention"]), 4, 32, 32)
    for image, maps in enumerate(found):
        np.testing.assert_array_equal(maps.numpy(), recorded[f"heatmap_{image}"])


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_masks_are_the_published_ones(recorded, mass):
    found = mass_masks(torch.from_numpy(recorded["attention"]), 32, mass)
    assert found.dtype == torch.bool and len(found) == len(recorded["attention"])
    for image, masks in enumerate(found):
        np.testing.assert_array_equal(
            masks.numpy(), recorded[f"mask_{image}_th{mass}"].astype(bool)
        )


def test_a_mask_keeps_the_fewest_patches_that_hold_the_mass():
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1])
    attention = torch.zeros(1, 1, 5, 5)
    attention[0, 0, 0, 1:] = weights
    kept = [mass_masks(attention, 2, mass)[0, 0].flatten().tolist() for mass in (0.35, 0.65, 1.0)]
    assert kept == [[True, False, False, False], [True, True, False, False], [True] * 4]


def test_other_shapes():
    attention = torch.rand(2, 3, 9, 9)
    assert heat_maps(attention, (8, 16)).shape == (2, 3, 8, 16)  # 2 x 4 patches of side 4
    with pytest.raises(ValueError, match="9 tokens are not a class token and a grid"):
        heat_maps(attention, 32)
    with pytest.raises(ValueError, match=r"at most 1, not 1\.5"):
        mass_masks(attention, (8, 16), 1.5)
