"""ConViT against numbers recorded from the locality-guidance code."""

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

from multicrop import registry
from multicrop.models import convit
from multicrop.models._positions import resample

SMALL = {
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "num_layers": 3,
    "num_heads": 4,
    "local_layers": 2,
}


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_small_network(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "model_convit.safetensors")
    backbone, head = classifier("convit", part(tensors, "state/"), tmp_path, **SMALL)
    check_small(tensors, backbone, head)
    close(convit.relative_positions((4, 4), torch.device("cpu"))[None], tensors["rel_indices"], 0)


def test_published_size(tmp_path):
    check_full_size("convit", "convit_tiny", tmp_path)


def test_number_of_parameters():
    with torch.device("meta"):
        model = registry.backbone("convit_tiny")
    assert sum(parameter.numel() for parameter in model.parameters()) + 193 * 100 == 5_536_812
    assert model.local_layers == 10 and model.patch_size == 16
    assert list(model.maps) == [f"blocks.{index}" for index in range(12)] and model.stages == (
        "blocks.11",
    )


def test_relative_positions_of_a_grid_that_is_not_square():
    relative = convit.relative_positions((2, 3), torch.device("cpu"))
    places = [(row, column) for row in range(2) for column in range(3)]
    for n, (row, column) in enumerate(places):
        for m, (other_row, other_column) in enumerate(places):
            right, down = other_column - column, other_row - row
            assert relative[n, m].tolist() == [right, down, right**2 + down**2]


def test_heads_start_on_their_own_neighbours():
    torch.manual_seed(0)
    attention = convit.build(**SMALL, locality_strength=8.0).blocks[0].attn
    close(attention.v.weight.detach(), torch.eye(48), 0)
    assert (
        attention.gating_param.tolist() == [1.0] * 4
        and attention.pos_proj.bias.tolist() == [0.0] * 4
    )
    expected = [[2 * right, 2 * down, -1] for right in (-0.5, 0.5) for down in (-0.5, 0.5)]
    close(attention.pos_proj.weight.detach(), 8 * torch.tensor(expected), 0)
    weights = attention.by_position(convit.relative_positions((3, 3), torch.device("cpu")))[
        :, 4
    ].view(4, 3, 3)
    for head, (columns, rows) in enumerate(
        [(0, 0), (0, 1), (1, 0), (1, 1)]
    ):  # each half a patch away on either axis
        assert weights[head, rows : rows + 2, columns : columns + 2].sum() > 0.99


def test_heads_beyond_a_square_start_at_random():
    torch.manual_seed(0)
    weight = (
        convit.build(32, embed_dim=30, num_heads=10, num_layers=2, local_layers=1)
        .blocks[0]
        .attn.pos_proj.weight
    )
    assert weight[8].tolist() == [2.0, 2.0, -1.0] and weight[0].tolist() == [-2.0, -2.0, -1.0]
    assert 0 < weight[9].abs().max() < 0.1


def test_initial_spread():
    torch.manual_seed(0)
    model = convit.build(32)
    for weight in (
        model.blocks[0].attn.qk.weight,
        model.blocks[11].attn.qkv.weight,
        model.blocks[3].mlp.fc1.weight,
    ):
        assert abs(weight.std().item() - 0.02) < 0.001
    assert abs(model.pos_embed.std().item() - 0.02) < 0.002


def test_gates_mix_content_and_position():
    model, x = convit.build(**SMALL).eval(), images(32, 32)
    for gate, same in ((-100.0, True), (100.0, False)):
        torch.nn.init.constant_(model.blocks[0].attn.gating_param, gate)
        before = model(x)
        other = model.blocks[0].attn.pos_proj.weight.data.clone()
        model.blocks[0].attn.pos_proj.weight.data.neg_()
        assert torch.equal(model(x), before) is same
        model.blocks[0].attn.pos_proj.weight.data.copy_(other)


def test_state_holds_no_relative_positions_and_ignores_those_of_others():
    model = convit.build(**SMALL)
    state = model.state_dict()
    assert not any("rel" in name for name in state) and not list(model.buffers())
    adapted = convit.adapt(state | {"blocks.0.attn.rel_indices": torch.zeros(1, 16, 16, 3)}, model)
    assert adapted.keys() == state.keys()


def test_weights_of_another_image_size_give_the_features_of_the_resampled_table():
    small, large = convit.build(**SMALL).eval(), convit.build(**SMALL | {"image_size": 48}).eval()
    state = convit.adapt(small.state_dict(), large)
    close(state["pos_embed"], resample(small.pos_embed, (6, 6)), 0)
    large.load_state_dict(state)
    close(large(images(48, 48)), small(images(48, 48)))


def test_maps_of_images_that_are_not_square():
    model = convit.build(**SMALL).eval()
    features, maps = model.forward_maps(images(32, 16))
    assert {value.shape for value in maps.values()} == {(2, 48, 4, 2)}
    close(features, model(images(32, 16)))


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (96, 12), (224, 16), (28, 2)])
def test_default_patches_are_an_eighth_of_small_images(size, patch):
    with torch.device("meta"):
        assert convit.build(size).patch_size == patch


@pytest.mark.parametrize("local_layers", [-1, 3])
def test_some_block_must_have_the_class_token(local_layers):
    with pytest.raises(
        ValueError, match=f"{local_layers} of 3 blocks cannot be local; give 0 to 2"
    ):
        convit.build(**SMALL | {"local_layers": local_layers})
