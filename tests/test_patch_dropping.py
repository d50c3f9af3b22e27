"""--patch_drop_rate: the student of a ViT leaves out a share of the patches of whole images."""

import pytest
import torch

from multicrop import registry
from multicrop.config.pretrain import Recipe, Student


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return registry.backbone(
        "vit", 32, patch_size=4, embed_dim=16, num_layers=2, num_heads=2, drop_path_rate=0.0,
        patch_drop_rate=0.5,
    ).train()  # fmt: skip


def tokens_of_blocks(network, images):
    counts = []
    for block in network.blocks:
        block.register_forward_hook(lambda block, args, output: counts.append(args[0].shape[1]))
    network(images)
    return counts


def test_training_computes_half_of_the_patches_and_the_class_token(vit):
    assert tokens_of_blocks(vit, torch.rand(2, 3, 32, 32)) == [33, 33]


def test_local_crops_keep_their_patches(vit):
    assert tokens_of_blocks(vit, torch.rand(2, 3, 16, 16)) == [17, 17]


def test_evaluation_sees_all_patches(vit):
    assert tokens_of_blocks(vit.eval(), torch.rand(2, 3, 32, 32)) == [65, 65]


def test_the_kept_patches_are_drawn_for_each_image(vit):
    image = torch.rand(1, 3, 32, 32).repeat(8, 1, 1, 1)
    features = vit(image)
    assert len(features.unique(dim=0)) == 8


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="patch_drop_rate"):
        Student(patch_drop_rate=rate)


def test_older_runs_had_none():
    assert Recipe.ADDED["patch_drop_rate"] is None
