"""PVT and PVT v2 against numbers recorded from the locality-guidance code."""

import pytest
import torch
import torch.nn.functional as F
from locality_guidance import (
    SHARED,
    check_full_size,
    check_small,
    classifier,
    close,
    part,
    recorded,
)
from timm.layers import DropPath

from multicrop import registry
from multicrop.models import pvt, pvtv2
from multicrop.models._positions import resample

SMALL = {"widths": (8, 16, 40, 32), "depths": (1, 2, 1, 1)}
FULL = "full_size_deit_t2t_pvt_resnet.npz"
FAMILIES = {"pvt": pvt, "pvtv2": pvtv2}


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_small_network(shared_golden, tmp_path, family):
    tensors = recorded(shared_golden / SHARED / f"model_{family}.safetensors")
    backbone, head = classifier(family, part(tensors, "state/"), tmp_path, image_size=64, **SMALL)
    check_small(tensors, backbone, head)


@pytest.mark.parametrize(
    ("family", "arch"),
    [pytest.param("pvt", "pvt_tiny", marks=pytest.mark.slow), ("pvtv2", "pvtv2_b0")],
)
def test_published_size(tmp_path, family, arch):
    check_full_size(family, arch, tmp_path, FULL)


@pytest.mark.parametrize(
    ("arch", "parameters"), [("pvt_tiny", 12_767_588), ("pvtv2_b0", 3_435_460)]
)
def test_number_of_parameters(arch, parameters):
    with torch.device("meta"):
        model = registry.backbone(arch)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) + (model.dim + 1) * 100
        == parameters
    )


@pytest.mark.parametrize(
    ("arch", "widths"), [("pvt_tiny", (64, 128, 320, 512)), ("pvtv2_b0", (32, 64, 160, 256))]
)
def test_maps_and_stages_of_the_published_size(arch, widths):
    with torch.device("meta"):
        model = registry.backbone(arch)
    assert model.stages == ("blocks.1", "blocks.3", "blocks.5", "blocks.7") and len(model.maps) == 8
    assert [model.maps[name] for name in model.stages] == list(
        zip(widths, (4, 8, 16, 32), strict=True)
    )
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert sorted(set(rates))[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "sides"), [((32, 32), (16, 8, 4, 2)), ((16, 16), (8, 4, 2, 1)), ((8, 8), (4, 2, 1, 1))]
)
def test_small_images(family, size, sides):
    model = FAMILIES[family].build(32, **SMALL).eval()
    features, maps = model.forward_maps(images(*size))
    assert [maps[name].shape[2:] for name in model.stages] == [(side, side) for side in sides]
    assert features.isfinite().all() and not torch.allclose(features[0], features[1], rtol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_need_not_be_square(family):
    model = FAMILIES[family].build(32, **SMALL).eval()
    features, maps = model.forward_maps(images(32, 16))
    assert [maps[name].shape[2:] for name in model.stages] == [(16, 8), (8, 4), (4, 2), (2, 1)]
    close(features, model(images(32, 16)))


def test_maps_smaller_than_a_window_are_padded_with_zeros():
    torch.manual_seed(0)
    shrink = pvt.Shrink(3, 5, 4, 4)
    x = images(3, 6)
    close(shrink(x), F.conv2d(F.pad(x, (0, 0, 0, 1)), shrink.weight, shrink.bias, stride=4))
    large = images(9, 8)
    assert torch.equal(shrink(large), F.conv2d(large, shrink.weight, shrink.bias, stride=4))


def test_reduced_attention_is_that_of_the_reduced_map():
    torch.manual_seed(0)
    attention, x = pvt.ReducedAttention(6, 2, reduction=2), torch.randn(2, 12, 6)
    reduced = F.conv2d(
        x.transpose(1, 2).view(2, 6, 4, 3), attention.sr.weight, attention.sr.bias, stride=2
    )
    assert reduced.shape[2:] == (2, 1)
    keys = F.layer_norm(
        reduced.flatten(2).transpose(1, 2), (6,), attention.norm.weight, attention.norm.bias, 1e-6
    )
    k, v = (part.view(2, 2, 2, 3).transpose(1, 2) for part in attention.kv(keys).split(6, dim=-1))
    q = attention.q(x).view(2, 12, 2, 3).transpose(1, 2)
    mixed = (q @ k.transpose(2, 3) / 3**0.5).softmax(-1) @ v
    close(attention(x, (4, 3)), attention.proj(mixed.transpose(1, 2).reshape(2, 12, 6)))


def test_blocks_can_be_replaced():
    class Shift(torch.nn.Module):
        def __init__(self, *sizes, drop_path):
            super().__init__()
            self.sizes = sizes

        def forward(self, x, grid, prefix):
            assert x.shape[1] == prefix + grid[0] * grid[1]
            return x + 1

    sizes = pvt.stage_sizes(8, None, (1, 1, 1, 1), 1, 4.0, 0.1)
    model = pvt.PVT(32, 2, 3, sizes, Shift)
    built = [stage.blocks[0].sizes for stage in model.layers]
    assert built == [(8, 1, 8.0, 8), (16, 2, 8.0, 4), (40, 5, 4.0, 2), (64, 8, 4.0, 1)]
    assert [stage.prefix for stage in model.layers] == [0, 0, 0, 1]
    assert model(images(32, 32)).shape == (2, 64)


def test_weights_of_another_image_size_give_the_features_of_the_resampled_tables():
    small, large = pvt.build(32, **SMALL).eval(), pvt.build(64, patch_size=2, **SMALL).eval()
    state = pvt.adapt(small.state_dict(), large)
    large.load_state_dict(state)
    close(large(images(64, 64)), small(images(64, 64)))
    last = small.layers[3].pos_embed
    close(
        state["layers.3.pos_embed"], torch.cat([last[:, :1], resample(last[:, 1:], (4, 4))], dim=1)
    )


def test_timms_names_of_pvt_v2_are_understood():
    import timm

    published = timm.create_model("pvt_v2_b0", num_classes=0).eval()
    ours = registry.backbone("pvtv2_b0").eval()
    ours.load_state_dict(pvtv2.adapt(published.state_dict(), ours))
    for module in published.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    with torch.no_grad():
        close(ours(images(64, 64)), published(images(64, 64)))


def test_initial_values():
    torch.manual_seed(0)
    model = pvt.build(64)
    for stage in model.layers:
        assert 0.018 < stage.pos_embed.std() < 0.022
        assert 0.018 < stage.blocks[0].mlp.fc1.weight.std() < 0.022
    assert 0.017 < model.layers[3].cls_token.std() < 0.023 and model.layers[0].cls_token is None
    block = pvtv2.build(64).layers[1].blocks[0]
    assert abs(block.attn.sr.weight.std() - (2 / (16 * 64)) ** 0.5) < 1e-3
    assert (
        abs(block.mlp.dwconv.weight.std() - (2 / 9) ** 0.5) < 0.02
        and (block.mlp.dwconv.bias == 0).all()
    )


def test_sizes_that_clash():
    with pytest.raises(ValueError, match=r"depths \(1, 2\): a pyramid transformer has 4 stages"):
        pvt.build(32, depths=(1, 2))
    with pytest.raises(ValueError, match="5 heads cannot share embedding width 48"):
        pvt.build(32, widths=(8, 16, 48, 64))
    with pytest.raises(ValueError, match="15 px is no whole number of 2 px patches"):
        pvt.build(32, **SMALL)(images(15, 15))
    with pytest.raises(
        ValueError, match="patch size 8: patches of 7 px overlap at steps of 1 to 6 px"
    ):
        pvtv2.build(64, patch_size=8)
