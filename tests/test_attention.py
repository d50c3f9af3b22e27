"""probes/attention.py against recorded heat maps and masks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multicrop.probes.attention import heat_maps, mass_masks

GOLDEN = np.load(Path(__file__).parent / "golden" / "two_stage_ssl" / "attention_mask.npz")
ATTENTION = torch.from_numpy(GOLDEN["attention"])


def test_heat_maps_are_the_published_ones():
    found = heat_maps(ATTENTION, 32)
    assert found.shape == (1, 4, 32, 32)
    np.testing.assert_array_equal(found[0].numpy(), GOLDEN["heatmap_0"])


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_masks_are_the_published_ones(mass):
    found = mass_masks(ATTENTION, 32, mass)
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found[0].numpy(), GOLDEN[f"mask_0_th{mass}"].astype(bool))


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
        mass_masks(ATTENTION, 32, 1.5)
