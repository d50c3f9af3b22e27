"""probes/spatial.py: where networks look and what they keep of each place, for every family and some of timm's."""

import pytest
import torch
from test_models import OPTIONS, build, images
from torch import nn

from multicrop import registry
from multicrop.models import swin
from multicrop.probes import spatial
from multicrop.probes.attention import heat_maps

WITHOUT = {"resnet", "timm:resnet10t", "timm:mobilenetv3_small_050"}
SIGNED = {"grassmanian_vit_6_4_32"}  # weights without a softmax
OF_TIMM = {  # places across of the attention, or None; of the features
    "timm:vit_tiny_patch16_224": (4, 4),
    "timm:deit_tiny_distilled_patch16_224": (4, 4),
    "timm:swin_tiny_patch4_window7_224": (2, 2),
    "timm:convnext_atto": (None, 2),
    "timm:mixer_s32_224": (None, 2),
}  # fmt: skip


@pytest.mark.parametrize("arch", OPTIONS)
def test_every_family_shows_where_it_looks_or_what_it_keeps(arch):
    model = build(arch, 64).eval()
    pixels = images(64)
    maps, features = spatial.attention_maps(model, pixels), spatial.feature_maps(model, pixels)
    assert features is not None and len(features) == 2 and features.dim() == 4
    assert features.shape[2] == features.shape[3] >= 2
    assert spatial.energy(features).shape == features[:, 0].shape
    if arch in WITHOUT | SIGNED:
        assert maps is None
        return
    assert maps is not None and maps.dim() == 4 and len(maps) == 2
    assert maps.shape[2] == maps.shape[3] >= 2 and maps.min() >= 0
    sums = maps.sum((2, 3))
    assert (sums <= 1 + 1e-4).all() and (sums > 0.5).all()
    other = spatial.attention_maps(model, pixels.flip(0))
    assert torch.allclose(other, maps.flip(0), atol=1e-5)  # each image has its own


@pytest.mark.parametrize("arch", OF_TIMM)
def test_timms_networks_too(arch):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = registry.backbone(arch, 64).eval()
    maps, features = (
        spatial.attention_maps(model, images(64)),
        spatial.feature_maps(model, images(64)),
    )
    places, kept = OF_TIMM[arch]
    assert (None if maps is None else maps.shape[-1]) == places
    assert features is not None and features.shape[-1] >= kept
    if maps is not None:
        assert (maps.sum((2, 3)) <= 1 + 1e-4).all()


def test_a_vit_shows_what_its_own_method_says():
    model = build("vit", 32).eval()
    pixels = images(32)
    found = spatial.attention_maps(model, pixels)
    expected = heat_maps(model.attention(pixels), 32)
    patch = expected.shape[-1] // found.shape[-1]
    assert torch.allclose(found, expected[:, :, ::patch, ::patch], atol=1e-6)


@pytest.mark.parametrize(("side", "window", "shift"), [(8, 4, 0), (8, 4, 2), (6, 4, 2), (6, 4, 0)])
def test_windows_lie_where_they_were_cut(side, window, shift):
    """A map whose one bright place draws all attention of its window, padded, shifted or not."""
    row, column = 5, 1

    class Windows(nn.Module):
        def forward(self, pixels):
            x = pixels.mean(1)[:, :, :, None]
            more = -side % window
            x = nn.functional.pad(x, (0, 0, 0, more, 0, more))
            x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
            parts = swin.split_windows(x, window)[:, :, None, :, 0]  # (B, windows, 1, N)
            scores = parts[..., None, :].expand(*parts.shape, parts.shape[-1])
            weights = (50 * scores).softmax(-1)
            torch.roll(x, (shift, shift), (1, 2))
            return weights.mean((1, 2, 3))

    pixels = torch.zeros(2, 3, side, side)
    pixels[:, :, row, column] = 1.0
    (maps,) = spatial.attention_maps(Windows(), pixels)[:1]
    assert maps.shape == (1, side, side)
    assert divmod(int(maps[0].argmax()), side) == (row, column)


def test_attention_over_places_far_apart_is_not_laid_out_as_windows():
    class Grid(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn_grid = nn.Softmax(-1)

        def forward(self, pixels):
            return self.attn_grid(pixels.new_zeros(len(pixels), 4, 2, 16, 16))

    assert spatial.attention_maps(Grid(), images(32)) is None


def test_main_directions_are_colours_and_a_spectrum_is_shares():
    features = torch.randn(3, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    colours = spatial.main_colours(features)
    assert colours.shape == (3, 3, 4, 5) and colours.min() >= 0 and colours.max() <= 1
    assert spatial.main_colours(features[:1, :2]).shape == (
        1,
        3,
        4,
        5,
    )  # fewer directions than colours
    shares = spatial.spectrum(torch.randn(20, 5, generator=torch.Generator().manual_seed(1)))
    assert shares.sum() == pytest.approx(1) and (shares.diff() <= 0).all()
