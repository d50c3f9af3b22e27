"""T2T-ViT and its Performer attention against numbers recorded from the locality-guidance code and against formulas."""

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
from multicrop.models import t2t
from multicrop.models._performer import PerformerAttention, linear_attention, orthogonal_features
from multicrop.models._sinusoid import sinusoid
from multicrop.models._tokens_to_token import soft_split

SMALL = {"patch_size": 16, "embed_dim": 48, "num_layers": 2, "num_heads": 4, "token_dim": 16}
FULL = "full_size_deit_t2t_pvt_resnet.npz"


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_small_network(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "model_t2t.safetensors")
    backbone, head = classifier("t2t", part(tensors, "state/"), tmp_path, image_size=64, **SMALL)
    check_small(tensors, backbone, head)
    close(sinusoid(17, 48), tensors["state/pos_embed"])


@pytest.mark.parametrize("depth", [7, pytest.param(14, marks=pytest.mark.slow)])
def test_published_size(tmp_path, depth):
    check_full_size(f"t2t_{depth}", f"t2t_vit_{depth}", tmp_path, FULL, constant="pos_embed")


@pytest.mark.parametrize(
    ("arch", "parameters", "trained"),
    [("t2t_vit_7", 4_078_922, 4_024_394), ("t2t_vit_14", 21_199_050, 21_119_306)],
)
def test_number_of_parameters(arch, parameters, trained):
    with torch.device("meta"):
        model = registry.backbone(arch)
    own = sum(parameter.numel() for parameter in model.parameters()) + (model.dim + 1) * 100
    assert own == trained
    assert (
        own + sum(buffer.numel() for buffer in model.buffers()) == parameters
    )  # published as parameters too


def test_positions_of_other_grids_are_computed():
    small, large = t2t.build(32, **SMALL).eval(), t2t.build(64, **SMALL).eval()
    assert small.pos_embed.shape == (1, 5, 48) and large.pos_embed.shape == (1, 17, 48)
    adapted = t2t.adapt(small.state_dict(), large)
    large.load_state_dict(adapted)
    close(large.positions(17), sinusoid(17, 48))
    for size in ((64, 64), (32, 32), (48, 80)):
        close(large(images(*size)), small(images(*size)))


def test_a_table_of_this_size_is_the_files_own():
    model = t2t.build(32, **SMALL)
    assert torch.equal(
        t2t.adapt({"pos_embed": torch.ones(1, 5, 48)}, model)["pos_embed"], torch.ones(1, 5, 48)
    )


@pytest.mark.parametrize(
    ("size", "patch", "side"), [(32, 4, 8), (64, 8, 8), (96, 12, 8), (224, 16, 14), (28, 4, 7)]
)
def test_default_patches_are_an_eighth_of_small_images(size, patch, side):
    model = t2t.build(size, **SMALL | {"patch_size": None}).eval()
    assert model.patch_size == patch and model.pos_embed.shape[1] == 1 + side**2
    assert model.forward_maps(images(size, size))[1]["blocks.1"].shape[2:] == (side, side)


def test_any_size_that_fills_a_window():
    model = t2t.build(32, **SMALL | {"patch_size": 4}).eval()
    features, maps = model.forward_maps(images(31, 18))
    assert maps["blocks.1"].shape == (2, 48, 8, 5)
    close(features, model(images(31, 18)))
    assert model(images(3, 3)).shape == (2, 48)
    with pytest.raises(ValueError, match="images of 2 x 8 px are too small; 3 px is the least"):
        model(images(2, 8))
    with pytest.raises(ValueError, match="patch size 6: tokens-to-token takes 4, 8, 12, 16 px"):
        t2t.build(32, patch_size=6)


def test_soft_split_takes_windows_row_by_row():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    tokens, grid = soft_split(x, 3, 2)
    assert grid == (2, 2)
    assert tokens[0, 3].tolist() == [5, 6, 7, 9, 10, 11, 13, 14, 15]
    assert tokens[0, 1].tolist() == [0, 0, 0, 1, 2, 3, 5, 6, 7]


def test_linear_attention_is_the_attention_of_its_kernel():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 8)
    w = orthogonal_features(4, 8)
    kernel = torch.zeros(2, 5, 5)
    for row in w:
        features = [(z @ row - z.square().sum(-1) / 2).exp() for z in (q, k)]
        kernel += features[0][:, :, None] * features[1][:, None, :] / 4
    close(linear_attention(q, k, v, w), kernel / (kernel.sum(-1, keepdim=True) + 1e-8) @ v)


def test_random_features_are_orthogonal_saved_and_not_trained():
    attention = PerformerAttention(6, 8)
    close(attention.w @ attention.w.T, 4 * torch.eye(4))
    assert "w" in attention.state_dict() and "w" not in dict(attention.named_parameters())


def test_exponents_keep_full_precision_under_autocast():
    torch.manual_seed(0)
    q, k, v = 2 * torch.randn(3, 2, 9, 16)
    w = orthogonal_features(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_attention(q, k, v, w)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, linear_attention(q, k, v, w))
