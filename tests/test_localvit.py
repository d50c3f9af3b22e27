"""What LocalViT and its four families promise beyond the recorded numbers."""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from multicrop import registry
from multicrop.models import localvit
from multicrop.models._locality import LocalityFeedForward
from multicrop.models._maps import to_map

FAMILIES = {
    "localvit": {"embed_dim": 24, "num_layers": 2, "num_heads": 2},
    "localvit_tnt": {"embed_dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 6},
    "localvit_t2t": {"embed_dim": 24, "num_layers": 2, "num_heads": 2, "token_dim": 8},
    "localvit_pvt": {"embed_dim": 8, "depths": (1, 1, 1, 2)},
    "localvit_swin": {"embed_dim": 12, "depths": (2, 2), "num_heads": 2},
}


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def small(family: str, image_size: int = 32, **options) -> nn.Module:
    torch.manual_seed(0)
    return registry.backbone(family, image_size, **FAMILIES[family] | options)


def images(*sides: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *sides, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_another_image_size_load_whole(family):
    sizes = {"patch_size": 4}
    state, large = small(family, 32, **sizes).state_dict(), small(family, 48, **sizes)
    large.load_state_dict(registry.find("models", family).adapt(state, large))


def test_position_tables_are_fitted_as_published():
    small_table, model = (
        small("localvit", 32).state_dict()["pos_embed"],
        small("localvit", 48, patch_size=4),
    )
    table = localvit.adapt({"pos_embed": small_table}, model)["pos_embed"]
    assert torch.equal(table[:, :1], small_table[:, :1])
    square = small_table[:, 1:].view(1, 8, 8, 24).permute(0, 3, 1, 2)
    close(
        to_map(table, (12, 12), 1),
        F.interpolate(square, (12, 12), mode="bicubic", align_corners=False),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_values(family):
    model = small(family, embed_dim=48)
    tables = [
        p
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("cls_token", "pixel_pos")
    ]
    tables += [
        p
        for name, p in model.named_parameters()
        if name.endswith(("pos_embed", "patch_pos", "bias_table"))
    ]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            tables.append(module.weight)
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):  # PyTorch's own: uniform up to 1 / sqrt(fan in)
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    for table in tables:
        error = (
            0.02 * 4 * (2 * table.numel()) ** -0.5
        )  # four standard errors of a standard deviation
        assert abs(table.std().item() - 0.02) < error + 1e-3 and table.abs().max() < 0.12


def drop_rates(model: nn.Module) -> tuple[list[float], list[float]]:
    """Stochastic depth of attention and of the locality feed-forward, block by block."""
    blocks = [
        module
        for module in model.modules()
        if hasattr(module, "attn") or hasattr(module, "attn_out")
    ]
    blocks = [block for block in blocks if hasattr(block, "drop_path")]
    return [b.drop_path.drop_prob for b in blocks], [b.conv.drop_path.drop_prob for b in blocks]


@pytest.mark.parametrize("family", FAMILIES)
def test_stochastic_depth_is_on_attention_alone_unless_asked(family):
    attention, convolution = drop_rates(small(family, drop_path_rate=0.3))
    steps = len(attention) - 1
    assert attention == pytest.approx([0.3 * index / steps for index in range(steps + 1)])
    assert convolution == [0.0] * len(attention)
    both = drop_rates(small(family, drop_path_rate=0.3, locality_drop_path=True))
    assert both[0] == both[1] == attention


def test_stochastic_depth_leaves_images_out_of_the_feed_forward():
    torch.manual_seed(0)
    part, x = LocalityFeedForward(8, drop_path=0.5).train(), torch.randn(16, 8, 4, 4)
    unchanged = (part(x) == x).flatten(1).all(1)
    assert 0 < unchanged.sum() < 16
    assert not (part.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_dropouts_sit_where_published(family):
    rates = {
        name: m.p
        for name, m in small(family, drop_rate=0.3).named_modules()
        if isinstance(m, nn.Dropout)
    }
    assert not any(".conv." in name for name in rates)  # the locality feed-forward has none
    fixed = {name for name in rates if name.startswith("tokens_to_token.")}
    assert all(rates[name] == 0.1 for name in fixed) and (family == "localvit_t2t") == bool(fixed)
    ours = {name for name, rate in rates.items() if rate == 0.3}
    assert any(name.endswith("pos_drop") for name in ours) and any(
        name.endswith("proj_drop") for name in ours
    )


def test_norms_have_the_published_epsilons():
    def epsilons(model: nn.Module, end: str = "") -> set[float]:
        return {
            m.eps
            for name, m in model.named_modules()
            if isinstance(m, nn.LayerNorm) and name.endswith(end)
        }

    assert epsilons(small("localvit")) == {1e-6}
    assert epsilons(small("localvit_tnt")) == epsilons(small("localvit_swin")) == {1e-5}
    assert epsilons(small("localvit_t2t")) == {1e-5}
    assert epsilons(small("localvit_pvt"), "norm1") == {1e-6} == {small("localvit_pvt").norm.eps}
    assert (
        epsilons(small("localvit_pvt"), "embed.norm")
        == epsilons(small("localvit_pvt"), "attn.norm")
        == {1e-5}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_feed_forwards_learn_but_the_last_before_a_class_token(family):
    """The class token skips the feed-forward, so that nothing after the last one reads it; a mean reads all."""
    model = small(family).train()
    model(images(32, 32, batch=4)).square().sum().backward()
    parts = [module for module in model.modules() if isinstance(module, LocalityFeedForward)]
    norms = [max(p.grad.abs().max() for p in part.parameters()) for part in parts]
    assert all(norm > 0 for norm in norms[:-1])
    assert (norms[-1] > 0) == (family == "localvit_swin")


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_prefix_tokens_skip_the_feed_forward(prefix):
    torch.manual_seed(0)
    part, x = LocalityFeedForward(8).eval(), torch.randn(2, prefix + 15, 8)
    out = part.mix_tokens(x, (3, 5), prefix)
    assert torch.equal(out[:, :prefix], x[:, :prefix])
    close(to_map(out, (3, 5), prefix), part(to_map(x, (3, 5), prefix)))


def test_a_block_takes_a_distilled_class_token_too():
    block = small("localvit").blocks[0].eval()
    x = torch.randn(2, 2 + 12, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x, (3, 4), prefix=2)[:, :2], (x + block.attn(block.norm1(x)))[:, :2])


def test_the_depthwise_convolution_first_works_at_any_ratio():
    part = LocalityFeedForward(8, ratio=3, depthwise="first")
    widths = [
        (m.in_channels, m.out_channels, m.groups) for m in part.conv if isinstance(m, nn.Conv2d)
    ]
    assert widths == [(8, 8, 8), (8, 24, 1), (24, 8, 1)]
    assert part(torch.randn(2, 8, 3, 5)).shape == (2, 8, 3, 5)


def test_relu_means_relu6_as_published_and_other_words_differ():
    x, outputs = 20 * images(6, 6), {}
    for act in ("relu", "relu6", "hs", "hs+eca", "hs+ecah"):
        torch.manual_seed(0)
        outputs[act] = LocalityFeedForward(3, act=act).eval()(x)
    assert torch.equal(outputs["relu"], outputs["relu6"])
    words = ["relu6", "hs", "hs+eca", "hs+ecah"]
    assert not any(torch.equal(outputs[a], outputs[b]) for a, b in pairwise(words))


def test_a_wide_image_is_not_scrambled():
    """Turning an image by 90 degrees and its kernels with it must leave the features as they are."""
    model, x = small("localvit").eval(), images(16, 64)
    nn.init.zeros_(model.pos_embed)
    features, maps = model.forward_maps(x)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.transpose(2, 3)
    turned, turned_maps = model.forward_maps(x.transpose(2, 3))
    close(turned, features)
    close(turned_maps["blocks.1"].transpose(2, 3), maps["blocks.1"])
    assert maps["blocks.1"].shape == (2, 24, 4, 16)


def test_pixels_of_a_wide_image_stay_with_their_patch():
    model, x = small("localvit_tnt").eval(), images(16, 64)
    changed = x.clone()
    changed[:, :, 11:13, 43:45] += 1  # in the middle of the patch in row 1, column 5
    pixels, patches, grid = model.tokens(x)
    other_pixels, other, _ = model.tokens(changed)
    assert grid == (2, 8)
    assert (other - patches)[:, 1:].abs().sum((0, 2)).argmax() == 8 + 5
    assert (other_pixels - pixels).unflatten(0, (2, -1)).abs().sum((0, 2, 3)).argmax() == 8 + 5


def test_tnt_leaves_the_stream_that_it_is_given():
    model = small("localvit_tnt").eval()
    pixels, patches, grid = model.tokens(images(32, 32))
    kept = pixels.clone(), patches.clone()
    model.blocks[0](pixels, patches, grid)
    assert torch.equal(pixels, kept[0]) and torch.equal(patches, kept[1])


def test_random_features_are_saved_and_never_trained():
    model = small("localvit_t2t")
    saved = [name for name in model.state_dict() if name.endswith(".w")]
    assert saved == ["tokens_to_token.stages.0.attn.w", "tokens_to_token.stages.1.attn.w"]
    assert not any(
        name.endswith((".w", "pos_embed")) or "norm2" in name
        for name, _ in model.named_parameters()
    )


@pytest.mark.parametrize(
    ("family", "image_size", "expected"),
    [
        *[
            ("localvit", 32, 4),
            ("localvit", 64, 8),
            ("localvit_tnt", 32, 8),
            ("localvit_tnt", 64, 16),
        ],
        *[
            ("localvit_tnt", 16, 4),
            ("localvit_tnt", 20, 4),
            ("localvit_tnt", 224, 16),
            ("localvit_swin", 32, 2),
        ],
        *[("localvit_pvt", 32, 2), ("localvit_t2t", 32, 4)],
    ],
)
def test_default_patch(family, image_size, expected):
    assert small(family, image_size).patch_size == expected


@pytest.mark.parametrize(
    ("options", "window"), [({}, 4), ({"patch_size": 4}, 4), ({"window_size": 7}, 7)]
)
def test_windows(options, window):
    assert small("localvit_swin", 32, **options).layers[0].window == window
    assert small("localvit_swin", 56, patch_size=4).layers[0].window == 7  # of 14 patches a side


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("act", ["gelu", "se", "hs+se+eca", "hs+", ""])
def test_unknown_activations_are_refused(family, act):
    with pytest.raises(
        ValueError, match=re.escape(f"no activation is called {act!r}; known: relu, relu+se, ")
    ):
        small(family, act=act)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("localvit", {"reduction": 97}, "an SE reduction of 97 leaves none of 96 hidden channels"),
        ("localvit", {"vit_mlp_ratio": 0.01}, "an MLP ratio of 0.01 leaves none of 24 channels"),
        ("localvit", {"patch_size": 5}, "patch size 5 does not divide image size 32"),
        ("localvit_tnt", {"patch_size": 2}, "patch size 2: TNT divides patches into steps of 4 px"),
        ("localvit_tnt", {"image_size": 30}, "image size 30 must be a multiple of 4 px"),
        ("localvit_tnt", {"inner_dim": 7}, "3 heads cannot share embedding width 7"),
        (
            "localvit_t2t",
            {"tokens_type": "linear"},
            "no tokens_type is called 'linear'; known: performer, transformer",
        ),
        ("localvit_swin", {"window_size": 0}, "a window of 0 patches a side must be at least 1"),
    ],
)
def test_options_that_clash_are_one_line(family, options, message):
    with pytest.raises(ValueError, match=message):
        small(family, **options)


def test_a_misplaced_depthwise_convolution_is_one_line():
    with pytest.raises(ValueError, match="goes second, first, none, not 'last'"):
        LocalityFeedForward(8, depthwise="last")
