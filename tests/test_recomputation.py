"""engine/blocks.py and engine/recomputation.py: the same numbers from less memory."""

from collections import Counter
from copy import deepcopy

import finetuning
import pytest
import timm
import torch
from conftest import recipe, same
from torch import nn

from multicrop import registry
from multicrop.commands._student import build
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe
from multicrop.engine.blocks import blocks
from multicrop.engine.recomputation import recompute_blocks

FAMILIES = [name for name in registry.names("models") if name != "timm"]


def kinds(network: nn.Module) -> dict[str, int]:
    return dict(Counter(type(block).__name__ for block in blocks(network)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", {"Block": 12}),
        ("swin_tiny_patch4_window7_224", {"SwinTransformerBlock": 12}),  # not its four stages
        ("resnet26", {"Bottleneck": 8}),
        ("convnext_atto", {"ConvNeXtBlock": 12}),
        ("regnetx_002", {"RegStage": 4}),  # which has no lists
        ("vgg11", {}),
    ],
)
def test_blocks_are_what_repeats(name, expected):
    with torch.device("meta"):
        assert kinds(timm.create_model(name, num_classes=0)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_most_of_every_backbone_is_in_blocks(family):
    network = registry.backbone(arch=family, image_size=32)
    found = blocks(network)
    inside = {parameter for block in found for parameter in block.parameters()}
    assert sum(map(len, (list(block.parameters()) for block in found))) == len(inside)  # disjoint
    share = sum(p.numel() for p in inside) / sum(p.numel() for p in network.parameters())
    assert share > 0.8


def gradients(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    network.train()(images).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [*FAMILIES, "timm:resnet18", "timm:efficientnet_b0"])
def test_gradients_and_buffers_are_bit_equal(family):
    """With dropout and drop path, and statistics of batch norms that are counted once."""
    torch.manual_seed(0)
    plain = registry.backbone(arch=family, image_size=32, drop_rate=0.1, drop_path_rate=0.3)
    recomputed = deepcopy(plain)
    recompute_blocks(recomputed)
    images = torch.randn(2, 3, 32, 32)
    same(gradients(plain, images), gradients(recomputed, images))
    same(dict(plain.state_dict()), dict(recomputed.state_dict()))


def saved_bytes(network: nn.Module, images: torch.Tensor) -> int:
    """Of the activations that the backward pass would find."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    assert output.grad_fn is not None
    return sum(kept.values())


def test_a_block_keeps_its_input_alone():
    network = registry.backbone(arch="vit", image_size=32, embed_dim=32, num_layers=8, num_heads=2)
    images = torch.randn(4, 3, 32, 32)
    before = saved_bytes(network, images)
    assert recompute_blocks(network) == 8
    assert saved_bytes(network, images) < before / 5


def test_only_the_student_recomputes_and_a_copy_is_its_own():
    small = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "checkpoint_activations": True}
    state = build(recipe(Recipe, image_size=16, **small), 3, torch.device("cpu"))
    assert all("forward" in vars(block) for block in blocks(state.student.backbone))
    assert not any("forward" in vars(block) for block in blocks(state.teacher.backbone))
    twin = deepcopy(state.student.backbone)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    images = torch.randn(2, 3, 16, 16)
    assert not twin(images).any() and state.student.backbone(images).any()


def test_a_run_of_stage_two_learns_the_same_and_may_be_resumed_with_it(colours, tmp_path):
    """With drop path, and a moving average that is evaluated."""
    options = {"sd": 0.3, "ema_decay": 0.9, "max_steps": 6}
    finetuning.run(colours, tmp_path / "plain", **options)
    finetuning.run(colours, tmp_path / "recomputed", **options | {"max_steps": 3})
    recompute = {"checkpoint_activations": True}
    finetuning.run(colours, tmp_path / "recomputed", **options, **recompute)
    same(*(finetuning.networks(tmp_path / name) for name in ("plain", "recomputed")))


@pytest.mark.parametrize("stage", [Recipe, Finetuning])
def test_it_needs_no_other_flag_and_leaves_the_networks_uncompiled(stage):
    """By default they are compiled on CUDA."""
    assert recipe(stage).run.compile_networks == recipe(stage).run.compile == "auto"
    assert recipe(stage, checkpoint_activations=True).run.compile_networks is False
    assert recipe(stage, compile=True).run.compile_networks is True


def test_what_cannot_be_is_one_line():
    with pytest.raises(ValueError, match="VGG has none: leave it out"), torch.device("meta"):
        recompute_blocks(timm.create_model("vgg11", num_classes=0))
    with pytest.raises(ValueError, match="--checkpoint_activations True: not with --compile"):
        recipe(Recipe, checkpoint_activations=True, compile=True)
