"""PiT against numbers recorded from the locality-guidance code."""

import pytest
import torch
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
from multicrop.models import pit
from multicrop.models._positions import resample

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depths": (1, 2, 1), "num_heads": 2}


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_small_network(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "model_pit.safetensors")
    backbone, head = classifier("pit", part(tensors, "state/"), tmp_path, **SMALL)
    check_small(tensors, backbone, head)


def test_published_size(tmp_path):
    check_full_size("pit", "pit_tiny", tmp_path)


def test_number_of_parameters():
    with torch.device("meta"):
        model = registry.backbone("pit_tiny")
    assert sum(parameter.numel() for parameter in model.parameters()) + 257 * 100 == 4_615_972


def test_maps_and_stages_of_the_published_size():
    with torch.device("meta"):
        model = registry.backbone("pit_tiny")
        _, maps = model.forward_maps(torch.empty(1, 3, 224, 224))
    guided = [tuple(maps[name].shape[1:]) for name in ("blocks.0", "blocks.6", "blocks.11")]
    assert guided == [(64, 27, 27), (128, 14, 14), (256, 7, 7)]
    assert model.stages == ("blocks.1", "blocks.7", "blocks.11")
    assert [model.maps[name] for name in model.stages] == [(64, 8), (128, 16), (256, 32)]


def test_stochastic_depth_rises_by_one_step_per_block():
    model = pit.build(32, depths=(2, 1, 1), drop_path_rate=0.4)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    torch.testing.assert_close(rates, [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_position_map_at_other_sizes():
    model = pit.build(**SMALL)
    assert model.positions((7, 7)) is model.pos_embed or torch.equal(
        model.positions((7, 7)), model.pos_embed
    )
    tokens = resample(model.pos_embed.flatten(2).transpose(1, 2), (3, 5))
    close(model.positions((3, 5)), tokens.transpose(1, 2).reshape(1, 16, 3, 5))


def test_weights_of_another_image_size_give_the_features_of_the_resampled_map():
    small, large = pit.build(**SMALL).eval(), pit.build(**SMALL | {"image_size": 48}).eval()
    state = pit.adapt(small.state_dict(), large)
    assert state["pos_embed"].shape == (1, 16, 11, 11)
    large.load_state_dict(state)
    close(large(images(48, 48)), small(images(48, 48)))


def test_a_position_map_that_cannot_correspond_is_left_as_it_is():
    model = pit.build(**SMALL)
    for shape in ((1, 8, 9, 9), (1, 16, 9, 7), (1, 81, 16)):
        table = torch.zeros(shape)
        assert pit.adapt({"pos_embed": table}, model)["pos_embed"] is table


@pytest.mark.parametrize(
    ("size", "patch", "side"), [(32, 4, 15), (64, 8, 15), (128, 16, 15), (224, 16, 27), (28, 2, 27)]
)
def test_default_patches_are_an_eighth_of_small_images(size, patch, side):
    with torch.device("meta"):
        model = pit.build(size)
    assert model.patch_size == patch and model.pos_embed.shape[2:] == (side, side)


def test_sizes_that_clash():
    with pytest.raises(
        ValueError, match="stride 3 does not divide patch size 8; leave it out for half a patch"
    ):
        pit.build(32, patch_size=8, stride=3)
    with pytest.raises(
        ValueError,
        match="20 px is no whole number of 8 px patches; the nearest that are: 16 and 24",
    ):
        pit.build(**SMALL)(images(20, 20))


def test_rows_and_columns_are_not_confused():
    model, x = pit.build(**SMALL).eval(), images(32, 16)
    x.requires_grad_()
    _, maps = model.forward_maps(x)
    assert [maps[name].shape[2:] for name in model.stages] == [(7, 3), (4, 2), (2, 1)]
    (gradient,) = torch.autograd.grad(model.patch_embed(x)[0, :, 6, 2].sum(), x)
    assert gradient[0, :, 24:, 8:].abs().sum() > 0 and gradient[0, :, :24].abs().sum() == 0
