"""Parameter groups: the published rules of what decays, and layers whose rates shrink towards the input."""

import pytest
import timm
import torch
import torch.nn as nn
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay

from multicrop import registry
from multicrop.engine import optim
from multicrop.engine.parameter_groups import parameter_groups, parameter_layers
from multicrop.supervised.classifier import Classifier

IMAGES = torch.zeros(1, 3, 32, 32)
SMALL = {
    "dhvt": {"embed_dim": 24, "num_layers": 3, "num_heads": 3},
    "swin": {"embed_dim": 12, "depths": (2, 1), "num_heads": 2},
    "vit": {"embed_dim": 24, "num_layers": 3, "num_heads": 3},
}


def classifier(arch: str) -> Classifier:
    return Classifier(registry.backbone(arch, 32, **SMALL.get(arch, {})), 10)


def decaying(model: nn.Module, **options) -> set[str]:
    chosen = {
        p
        for group in parameter_groups(model, **options)
        if group["decays"]
        for p in group["params"]
    }
    return {name for name, p in model.named_parameters() if p in chosen}


def scales(model: nn.Module, **options) -> dict[str, float]:
    found = {
        p: group["lr_scale"]
        for group in parameter_groups(model, **options)
        for p in group["params"]
    }
    return {name: found[p] for name, p in model.named_parameters()}


def test_by_default_matrices_decay_and_vectors_and_biases_do_not():
    model = classifier("dhvt")
    matrices, plain = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim > 1 and not name.endswith(".bias") else plain).append(parameter)
    groups = parameter_groups(model)
    assert [group["decays"] for group in groups] == [True, False]
    for group, expected in zip(groups, (matrices, plain), strict=True):
        assert all(p is q for p, q in zip(group["params"], expected, strict=True))


def test_published_rules_for_dhvt():
    """DeiT's list names whole parameters, so that head embeddings and affines decay; a wider one can spare them."""
    model = classifier("dhvt")
    published = decaying(model, exempt=("cls_token", "pos_embed", "dist_token"))
    assert decaying(model) - published == {"backbone.cls_token"}
    assert (
        "backbone.blocks.0.attn.pos_embed" in published
        and "backbone.patch_embed.pre_affine.alpha" in published
    )
    spared = published - decaying(model, exempt=("cls_token", "*pos_embed", "*.alpha", "*.beta"))
    assert {name.rsplit(".", 1)[1] for name in spared} == {"pos_embed", "alpha", "beta"} and len(
        spared
    ) == 3 + 4


def test_published_rule_of_locality_guidance():
    """Names that contain one of its words, wherever they stand."""
    model = classifier("vit")
    spared = decaying(model) - decaying(
        model, exempt=("*cls_token*", "*pos_embed*", "*distill_token*")
    )
    assert spared == {"backbone.cls_token", "backbone.pos_embed"}


def test_frozen_parameters_are_in_no_group():
    model = classifier("vit")
    model.backbone.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model)) == 2


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_layers_of_timm_are_those_of_timm(name):
    """Against timm's own function on the same network with its classifier."""
    whole = timm.create_model(name, num_classes=10)
    theirs = {
        p: (g["lr_scale"], g["weight_decay"] > 0)
        for g in param_groups_layer_decay(whole)
        for p in g["params"]
    }
    expected = {key: theirs[p] for key, p in whole.named_parameters()}
    model = Classifier(registry.backbone(f"timm:{name}", 224), 10)
    own = {
        p: (g["lr_scale"], g["decays"])
        for g in parameter_groups(model, layer_decay=0.75)
        for p in g["params"]
    }
    found = {key: own[p] for key, p in model.backbone.named_parameters()}
    assert found.items() <= expected.items() and len(found) > len(expected) - 5
    assert own[model.head.weight] == (1.0, True)


def test_layers_by_feature_maps_are_those_by_timms_names(monkeypatch):
    vit = registry.backbone("vit", 32, **SMALL["vit"])
    by_name = parameter_layers(vit)
    monkeypatch.delattr(VisionTransformer, "group_matcher")
    assert parameter_layers(vit, IMAGES) == by_name and max(by_name.values()) == 3


def test_layers_of_a_network_of_ours():
    found = parameter_layers(registry.backbone("dhvt", 32, **SMALL["dhvt"]), IMAGES)
    for name, layer in found.items():
        block = (
            name.split(".")[1]
            if name.startswith("blocks.")
            else "2"
            if name.startswith("norm")
            else "-1"
        )
        assert layer == int(block) + 1, name


def test_layers_through_stages():
    found = parameter_layers(registry.backbone("swin", 32, **SMALL["swin"]), IMAGES)
    assert found["patch_embed.proj.weight"] == 0
    assert (
        found["layers.0.blocks.0.attn.qkv.weight"] == 1
        and found["layers.0.blocks.1.mlp.fc1.bias"] == 2
    )
    assert (
        found["layers.0.downsample.reduction.weight"]
        == found["layers.1.blocks.0.norm1.weight"]
        == 3
    )
    assert found["norm.weight"] == max(found.values()) == 3


def test_rates_shrink_towards_the_input():
    model = classifier("dhvt").train()
    found = scales(model, layer_decay=0.5, example=IMAGES)
    assert model.backbone.training
    assert (
        found["head.weight"] == 1
        and found["backbone.norm.weight"] == found["backbone.blocks.2.norm1.bias"] == 0.5
    )
    assert (
        found["backbone.blocks.0.attn.qkv.weight"] == 0.125
        and found["backbone.cls_token"] == 0.0625
    )
    optimizer = optim.build_optimizer(
        "adamw", parameter_groups(model, layer_decay=0.5, example=IMAGES)
    )
    optim.set_rates(optimizer, 0.1, 0.05)
    rates = {
        p: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert rates[model.backbone.blocks[0].attn.qkv.weight] == (pytest.approx(0.0125), 0.05)
    assert rates[model.head.bias] == (0.1, 0.0)


def test_projections_beside_the_student_learn_at_the_whole_rate():
    student = classifier("dhvt")
    both = nn.ModuleDict({"student": student, "projections": nn.Conv2d(24, 16, 1)})
    options = {
        "backbone": student.backbone,
        "example": IMAGES,
        "layer_decay": 0.5,
        "exempt": ("cls_token",),
    }
    assert scales(both, **options)["projections.weight"] == 1
    assert scales(both, **options)["student.backbone.cls_token"] == 0.0625
    assert "student.backbone.cls_token" not in decaying(both, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.5}, "layers of DHVT are found by its feature maps on example images"),
        ({"layer_decay": 1.5, "example": IMAGES}, "is 1.5; it must be above 0"),
    ],
)
def test_impossible_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(classifier("dhvt"), **options)
    with pytest.raises(ValueError, match="Linear has no backbone"):
        parameter_groups(nn.Linear(2, 2), layer_decay=0.5)
