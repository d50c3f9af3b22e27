"""CvT against numbers recorded from the locality-guidance code."""

import pytest
import torch
from locality_guidance import (
    COMMITTED,
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
from multicrop.models import cvt

SMALL = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": (1, 1, 2),
    "num_heads": 1,
    "drop_path_rate": 0.0,
}


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def check_training(tensors, backbone, head) -> None:
    """Logits from the batch's own statistics, and a running mean after that one forward."""
    close(head(backbone.train()(tensors["input"])), tensors["train/logits"])
    state = backbone.state_dict()
    for name, theirs in part(tensors, "train/after/").items():
        close(state[name], theirs)


def test_small_network(tmp_path):
    tensors = recorded(COMMITTED / "model_cvt.npz")
    backbone, head = classifier("cvt", part(tensors, "state/"), tmp_path, **SMALL)
    check_small(tensors, backbone, head)
    check_training(tensors, backbone, head)


def test_small_network_with_maps_and_gradient(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "model_cvt.safetensors")
    backbone, head = classifier("cvt", part(tensors, "state/"), tmp_path, **SMALL)
    check_small(tensors, backbone, head)


@pytest.mark.slow
def test_published_size(tmp_path):
    check_full_size("cvt", "cvt_13", tmp_path)


def test_number_of_parameters():
    with torch.device("meta"):
        model = registry.backbone("cvt_13")
    assert sum(parameter.numel() for parameter in model.parameters()) + 385 * 100 == 19_650_980
    assert sum(buffer.numel() for buffer in model.buffers()) == 25_767


def test_maps_and_stages_of_the_published_size():
    with torch.device("meta"):
        model = registry.backbone("cvt_13")
        _, maps = model.forward_maps(torch.empty(1, 3, 224, 224))
    guided = [tuple(maps[name].shape[1:]) for name in ("blocks.0", "blocks.6", "blocks.11")]
    assert guided == [(64, 56, 56), (384, 14, 14), (384, 14, 14)]
    assert model.stages == ("blocks.0", "blocks.2", "blocks.12")
    assert [model.maps[name] for name in model.stages] == [(64, 4), (192, 8), (384, 16)]


def test_one_image_gives_one_row():
    model, x = cvt.build(**SMALL).eval(), images(64, 64)
    assert model(x[:1]).shape == (1, 48)
    close(model(x[:1]), model(x)[:1])


def test_only_the_last_stage_has_stochastic_depth():
    model = cvt.build(32, depths=(1, 2, 3), drop_path_rate=0.2)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    torch.testing.assert_close(rates, [0.0, 0.0, 0.0, 0.0, 0.1, 0.2])


def test_attention_is_scaled_by_the_whole_width():
    torch.manual_seed(0)
    attention, x = cvt.ConvAttention(12, 3, 1, True, 0.0).eval(), torch.randn(2, 1 + 12, 12)
    prefix, tokens = x[:, :1], x[:, 1:].transpose(1, 2).reshape(2, 12, 4, 3)
    q, k, v = (
        linear(torch.cat([prefix, bn(conv).flatten(2).transpose(1, 2)], 1)).view(2, -1, 3, 4)
        for linear, bn, conv in (
            (attention.proj_q, attention.conv_proj_q.bn, attention.conv_proj_q.conv(tokens)),
            (attention.proj_k, attention.conv_proj_k.bn, attention.conv_proj_k.conv(tokens)),
            (attention.proj_v, attention.conv_proj_v.bn, attention.conv_proj_v.conv(tokens)),
        )
    )
    assert q.shape[1] == 13 and k.shape[1] == 1 + 2 * 2
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 12**0.5).softmax(-1)
    close(
        attention(x, (4, 3)), attention.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))
    )


def test_initial_values():
    torch.manual_seed(0)
    model = cvt.build(32)
    attention = model.stage2.blocks[0].attn
    assert (
        abs(attention.proj_q.weight.std().item() - 0.02) < 0.001
        and attention.proj_q.bias.abs().max() == 0
    )
    assert abs(model.stage2.cls_token.std().item() - 0.02) < 0.004
    assert model.stage0.cls_token is None and model.stage1.cls_token is None


@pytest.mark.parametrize(
    ("size", "patch", "kernel"), [(32, 2, 3), (64, 4, 7), (224, 4, 7), (28, 2, 3), (7, 1, 1)]
)
def test_first_convolution(size, patch, kernel):
    model = cvt.build(size, depths=(1, 1, 1))
    convolution = model.stage0.patch_embed.proj
    assert model.patch_size == patch and convolution.kernel_size == (kernel, kernel)
    assert convolution(torch.zeros(1, 3, size, size)).shape[2:] == (size // patch, size // patch)


def test_maps_of_images_that_are_not_square_and_of_odd_sides():
    model = cvt.build(**SMALL).eval()
    features, maps = model.forward_maps(images(20, 36))
    assert [maps[name].shape[2:] for name in model.stages] == [(5, 9), (3, 5), (2, 3)]
    assert features.isfinite().all()


def test_a_cvt_has_three_stages():
    with pytest.raises(ValueError, match="a CvT has 3 stages, not 2"):
        cvt.build(32, depths=(1, 2))
