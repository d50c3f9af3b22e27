"""DeiT against numbers recorded from the locality-guidance code."""

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
    recording,
)

from multicrop import registry
from multicrop.models import deit
from multicrop.models._positions import resample

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 48, "num_layers": 3, "num_heads": 3}
DISTILLED = SMALL | {"distilled": True}
FULL = "full_size_deit_t2t_pvt_resnet.npz"


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def second_head(tensors: dict, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, tensors["state/distill_head.weight"], tensors["state/distill_head.bias"])


def test_small_network(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "model_deit.safetensors")
    backbone, head = classifier("deit_tiny", part(tensors, "state/"), tmp_path, **SMALL)
    check_small(tensors, backbone, head)


def test_small_distilled_network(recordings, tmp_path):
    tensors = recording(recordings, "model_deit_distilled")
    backbone, head = classifier("deit_tiny_distilled", part(tensors, "state/"), tmp_path, **SMALL)
    x = tensors["input"].clone().requires_grad_()
    cls, distillation = backbone.forward_tokens(x)
    close(head(cls), tensors["train/logits"])
    close(second_head(tensors, distillation), tensors["train/distill_logits"])
    close(second_head(tensors, distillation), tensors["distill_logits"])
    logits = (head(cls) + second_head(tensors, distillation)) / 2
    close(logits, tensors["logits"])
    (gradient,) = torch.autograd.grad((logits * tensors["grad_probe"]).sum(), x)
    close(gradient, tensors["grad_input"])


def test_maps_and_features_of_the_small_distilled_network(recordings, tmp_path):
    tensors = recording(recordings, "model_deit_distilled")
    backbone, _ = classifier("deit_tiny_distilled", part(tensors, "state/"), tmp_path, **SMALL)
    features, maps = backbone.forward_maps(tensors["input"])
    for index, theirs in part(tensors, "feature/").items():
        close(maps[f"blocks.{index}"], theirs)
    close(features, backbone(tensors["input"]))
    close(features, sum(backbone.forward_tokens(tensors["input"])) / 2)


def test_published_size(tmp_path):
    check_full_size("deit", "deit_tiny", tmp_path, FULL)


@pytest.mark.parametrize(
    ("arch", "heads", "parameters"),
    [("deit_tiny", 1, 5_543_716), ("deit_tiny_distilled", 2, 5_563_400)],
)
def test_number_of_parameters(arch, heads, parameters):
    with torch.device("meta"):
        model = registry.backbone(arch)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) + heads * 193 * 100 == parameters
    )
    assert model.maps["blocks.11"] == (192, 16) and model.stages == ("blocks.11",)


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (128, 16), (224, 16), (28, 2)])
def test_default_patches_are_an_eighth_of_small_images(size, patch):
    assert deit.build(size, embed_dim=12, num_layers=1).patch_size == patch


@pytest.mark.parametrize("options", [SMALL, DISTILLED])
def test_weights_of_another_image_size_give_the_features_of_the_resampled_table(options):
    small, large = deit.build(**options).eval(), deit.build(**options | {"image_size": 48}).eval()
    state = deit.adapt(small.state_dict(), large)
    large.load_state_dict(state)
    close(large(images(48, 48)), small(images(48, 48)))
    prefix = small.num_prefix_tokens
    close(state["pos_embed"][:, prefix:], resample(small.pos_embed[:, prefix:], (6, 6)))
    assert torch.equal(state["pos_embed"][:, :prefix], small.pos_embed[:, :prefix])


def test_timm_names_are_ours():
    import timm

    published = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, num_classes=0
    ).eval()
    ours = deit.build(32, patch_size=8, distilled=True).eval()
    ours.load_state_dict(published.state_dict())
    close(
        ours(images(32, 32)),
        published.forward_head(published.forward_features(images(32, 32)), pre_logits=True),
    )


def test_initial_values_of_the_distillation_token_and_the_table():
    model = deit.build(64, patch_size=4, distilled=True)
    for table in (model.cls_token, model.dist_token, model.pos_embed):
        assert 0.015 < table.std() < 0.025
    assert model.pos_embed.shape == (1, 258, 192)


def test_both_prefix_tokens_take_part_and_rows_are_not_columns():
    model = deit.build(**DISTILLED).eval()
    cls, distillation = model.forward_tokens(images(32, 16))
    assert not torch.allclose(cls, distillation, atol=1e-2)
    features, maps = model.forward_maps(images(32, 16))
    assert maps["blocks.2"].shape == (2, 48, 4, 2)
    close(features, model(images(32, 16)))
