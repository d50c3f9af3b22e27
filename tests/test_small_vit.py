"""What small image sets add to a ViT: a convolutional stem, mean pooling, mimetic values, standardised images."""

import copy

import pytest
import torch

from multicrop import registry
from multicrop.models._conv_stem import conv_stem
from multicrop.models._standardise import standardise

SIZES = {"embed_dim": 32, "num_layers": 2, "num_heads": 2, "drop_path_rate": 0.0}


def vit(**options):
    torch.manual_seed(0)
    return registry.backbone("vit", 32, **{**SIZES, **options}).eval()


def images(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_options_left_open_change_nothing():
    plain = vit()
    stated = vit(stem="patch", pool="class", attention_init="random", standardise=False)
    assert plain(images()).equal(stated(images()))
    assert list(plain.state_dict()) == list(stated.state_dict())


# Stem


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_the_stem_keeps_the_grid_of_the_patches(patch_size: int):
    stem = conv_stem(3, 32, patch_size)
    assert stem(images(side=16)).shape == (3, 32, 16 // patch_size, 16 // patch_size)


def test_a_stem_halves_images():
    with pytest.raises(ValueError, match="--patch_size 6 must be a power of two"):
        conv_stem(3, 32, 6)


@pytest.mark.parametrize("side", [32, 16])
def test_every_parameter_of_a_small_vit_learns(side: int):
    network = vit(stem="conv", pool="mean").train()
    network(images(side=side)).pow(2).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="this network takes images"):
        vit(stem="conv")(torch.zeros(2, 1, 32, 32))


# Pooling


def test_features_are_the_mean_of_the_normalised_patches():
    network = vit(pool="mean")
    features, maps = network.forward_maps(images())
    patches = maps["blocks.1"].flatten(2).transpose(1, 2)
    assert torch.allclose(features, network.norm(patches).mean(1), atol=1e-6)
    assert torch.allclose(features, network(images()), atol=1e-6)


# First values


def test_queries_and_keys_agree_at_first_and_values_oppose():
    """Trockman and Kolter 2023: the products' diagonals stand out from noise of 0.7 / sqrt(D) and 0.4 / sqrt(D)."""
    network = vit(embed_dim=64, num_heads=1, attention_init="mimetic")
    for block in network.blocks:
        query, key, value = block.attn.qkv.weight.detach().chunk(3)
        attention = query.T @ key
        passing = block.attn.proj.weight.detach() @ value
        off = ~torch.eye(64, dtype=torch.bool)
        assert attention.diagonal().mean() == pytest.approx(0.7, abs=0.05)
        assert passing.diagonal().mean() == pytest.approx(-0.4, abs=0.03)
        assert attention[off].std() == pytest.approx(0.7 / 8, rel=0.1)
        assert passing[off].std() == pytest.approx(0.4 / 8, rel=0.1)


def test_positions_are_alike_where_they_are_near():
    table = vit(attention_init="mimetic").pos_embed[0, 1:]
    similarity = torch.nn.functional.cosine_similarity(table[:1], table)
    assert similarity[1] > similarity[3] and similarity[8] > similarity[24]  # to the right, below


# Standardised images


def test_brightness_and_contrast_no_longer_matter():
    network = vit(standardise=True)
    features = network(images())
    assert torch.allclose(network(0.4 * images() - 1), features, atol=1e-5)
    assert not torch.allclose(vit()(0.4 * images() - 1), vit()(images()), atol=1e-2)


def test_maps_and_attention_see_the_same_images():
    plain, network = vit(), vit(standardise=True)
    standardised = standardise(images())
    assert network(images()).equal(plain(standardised))
    assert network.forward_maps(images())[1]["blocks.0"].equal(
        plain.forward_maps(standardised)[1]["blocks.0"]
    )
    assert network.attention(images()).equal(plain.attention(standardised))


def test_names_stay_and_copies_are_apart():
    network = vit(standardise=True)
    assert list(network.state_dict()) == list(vit().state_dict())
    other = copy.deepcopy(network)
    torch.nn.init.zeros_(other.norm.weight)
    assert not other(images()).equal(network(images()))


@pytest.mark.parametrize("arch", ["resnet8", "cct_2_3x2_32", "swin", "timm:resnet10t"])
def test_any_backbone_can_standardise(arch: str):
    torch.manual_seed(0)
    network = registry.backbone(arch, 32, standardise=True).eval()
    features = network(images())
    assert torch.allclose(network(2 * images() + 1), features, atol=1e-4)
    torch.manual_seed(0)
    plain = registry.backbone(arch, 32).eval()
    faint = (
        0.01 * images()
    )  # below the least deviation, where standardising twice would not be once
    assert torch.allclose(network(faint), plain(standardise(faint)), atol=1e-4)
    if hasattr(network, "forward_maps"):
        assert torch.allclose(network.forward_maps(faint)[0], network(faint), atol=1e-5)


def test_a_standardising_network_compiles():
    network = registry.backbone("resnet8", 32, standardise=True).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images()), network(images()), atol=1e-5)


def test_flat_images_stay_finite():
    assert standardise(torch.full((2, 3, 8, 8), 5.0)).abs().max() == 0
