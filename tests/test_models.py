"""Every backbone obeys one contract: images (B, C, h, w) of the global and of the local size -> features (B, dim)."""

import copy

import pytest
import torch

from multicrop import find

SMALL = {
    "vit": {"embed_dim": 24, "num_layers": 2, "num_heads": 3},
    "swin": {"embed_dim": 12, "depths": (2, 2, 1), "num_heads": 2},
    "cait": {"embed_dim": 24, "num_layers": 2, "num_heads": 2},
}
TIMM = {
    "timm:vit_tiny_patch16_224": {"patch_size": 8},
    "timm:resnet10t": {},
    "timm:mobilenetv3_small_050": {},
}
OPTIONS = {name: {} for name in find.names("models") if name != "timm"} | SMALL | TIMM

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def build(arch: str, image_size: int = 32, **more) -> torch.nn.Module:
    """A small seeded network; CaiT's LayerScale starts at 1e-5, which would hide its blocks, so it is set to 0.5."""
    torch.manual_seed(0)
    model = find.backbone(arch, image_size, **OPTIONS[arch] | more)
    for name, parameter in model.named_parameters():
        if "gamma_" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return model


@pytest.fixture(scope="module", params=list(OPTIONS))
def arch(request) -> str:
    return request.param


def images(size: int, batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("image_size", [32, 64])
def test_features_of_both_crop_sizes(arch, image_size):
    model = build(arch, image_size).eval()
    for size in (image_size, image_size // 2):
        features = model(images(size))
        assert features.shape == (2, model.dim)
        assert features.isfinite().all()


def test_every_parameter_gets_a_gradient_in_training(arch):
    model = build(arch).train()
    for size in (32, 16):
        model.zero_grad()
        model(images(size, batch=3)).square().sum().backward()
        missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not missing
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_evaluation_is_repeatable_and_one_image_does_not_change_another(arch):
    model = build(arch).eval()
    x = images(32, batch=3)
    with torch.no_grad():
        features = model(x)
        assert torch.equal(features, model(x))
        torch.testing.assert_close(model(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[0], features[1], rtol=1e-3)


def test_seed_decides_weights_and_stochastic_depth(arch):
    first, second = (build(arch, drop_path_rate=0.5).train() for _ in range(2))
    outputs = []
    for model in (first, second):
        torch.manual_seed(3)
        outputs.append(model(images(32, batch=8)))
    assert torch.equal(*outputs)


def test_state_dict_round_trip_and_copy(arch):
    model, other = build(arch).eval(), build(arch).eval()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    state = model.state_dict()
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(model)):
        assert torch.equal(twin(images(16)), model(images(16)))


def test_adapt_keeps_our_own_names_and_values(arch):
    model = build(arch)
    state = model.state_dict()
    adapted = find.find("models", arch.partition(":")[0]).adapt(state, model)
    assert adapted.keys() == state.keys()
    assert all(torch.equal(adapted[name], state[name]) for name in state)


def test_bfloat16_autocast_is_close_to_float32(arch):
    model = build(arch).eval()
    with torch.no_grad():
        exact = model(images(32))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images(32)).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_other_numbers_of_channels(arch):
    model = build(arch, in_channels=1).eval()
    assert model(images(32, channels=1)).shape == (2, model.dim)


@pytest.mark.parametrize("arch", list(SMALL))
def test_drop_rate_and_drop_path_act_in_training_only(arch):
    model, x = build(arch, drop_rate=0.5, drop_path_rate=0.0), images(32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("arch", list(SMALL))
def test_images_need_not_be_square(arch):
    model, x = build(arch).eval(), images(32)
    assert model(x[:, :, :16]).shape == (2, model.dim)
    assert not torch.allclose(model(x[:, :, :16]), model(x[:, :, :, :16]), rtol=1e-3)


@pytest.mark.parametrize("arch", list(SMALL))
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 5}, "patch size 5 does not divide image size 32; the nearest that do: 4 and 8"),
        ({"patch_size": 0}, "at least 1 px"),
        ({"embed_dim": 25}, "cannot share embedding width 25"),
        ({"num_heads": 0}, "at least 1"),
    ],
)
def test_sizes_that_clash_are_refused_at_build(arch, options, message):
    with pytest.raises(ValueError, match=message):
        build(arch, **options)


@pytest.mark.parametrize("arch", list(SMALL))
def test_images_of_wrong_size_or_channels_are_refused_at_forward(arch):
    model = build(arch, patch_size=4)
    with pytest.raises(ValueError, match="15 px is no whole number of 4 px patches; the nearest that are: 12 and 16"):
        model(images(15))
    with pytest.raises(ValueError, match=r"images \(batch, 3, height, width\), not \(2, 1, 32, 32\)"):
        model(images(32, channels=1))


@pytest.mark.parametrize(
    ("arch", "image_size", "patch"),
    [
        *[("vit", 32, 4), ("vit", 64, 8), ("vit", 28, 2), ("vit", 8, 1)],
        *[("swin", 32, 2), ("swin", 64, 4), ("cait", 32, 4), ("cait", 64, 8), ("cait", 28, 2)],
    ],
)
def test_default_patch(arch, image_size, patch):
    assert build(arch, image_size).patch_embed.proj.stride == (patch, patch)


@pytest.mark.parametrize("arch", ["vit", "cait"])
def test_adapted_weights_of_another_image_size_give_the_features_of_the_resampled_table(arch):
    small, large = build(arch, 32, patch_size=4).eval(), build(arch, 48, patch_size=4).eval()
    state = find.find("models", arch).adapt(small.state_dict(), large)
    large.load_state_dict(state)
    torch.testing.assert_close(large(images(48)), small(images(48)), rtol=1e-5, atol=1e-5)


def test_adapt_resamples_bias_tables_of_another_swin_window():
    small, large = build("swin", 16), build("swin", 32)  # the last stage's maps are 2 x 2 and 4 x 4
    adapted = find.find("models", "swin").adapt(small.state_dict(), large)
    large.load_state_dict(adapted)
    key = "layers.2.blocks.0.attn.relative_position_bias_table"
    ours, theirs = adapted[key].view(7, 7, -1), small.state_dict()[key].view(3, 3, -1)
    torch.testing.assert_close(ours[::3, ::3], theirs)


def test_adapt_resamples_a_timm_position_table():
    arch = "timm:vit_tiny_patch16_224"
    state = find.find("models", "timm").adapt(build(arch, 64).state_dict(), build(arch, 32))
    build(arch, 32).load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("swin_tiny_patch4_window7_224", {}),
        ("swinv2_tiny_window8_256", {}),
        ("xcit_nano_12_p8_224", {}),
        ("efficientnet_b0", {}),
        (
            "convnext_atto",
            {"patch_size": 1},
        ),  # its own stem of 4 px leaves nothing of a 16 px crop to halve three times
        ("hrnet_w18_small", {"drop_path_rate": 0.1}),  # timm's other wording of a refusal
    ],
)
def test_timm_families_at_32_and_16_px(name, options):
    model = find.backbone(f"timm:{name}", 32, **options).eval()
    sizes = (32,) if name.startswith("hrnet") else (32, 16)
    for size in sizes:
        with torch.no_grad():
            assert model(images(size)).shape == (2, model.dim)


def test_timm_weights_keep_timm_names():
    import timm

    model = timm.create_model("resnet10t", num_classes=0)
    build("timm:resnet10t").load_state_dict(model.state_dict())


def test_timm_options_that_a_model_lacks_are_refused():
    with pytest.raises(ValueError, match="timm:resnet10t has no option patch_size"):
        find.backbone("timm:resnet10t", 32, patch_size=4)


@pytest.mark.parametrize(("name", "near"), [("resnet19", "resnet18"), ("vit_tiny_patch16", "vit_tiny_patch16_224")])
def test_unknown_timm_names_name_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"no model '{name}'; the nearest: .*{near}"):
        find.backbone(f"timm:{name}", 32)
    with pytest.raises(ValueError, match="needs a model's name"):
        find.backbone("timm", 32)


def test_last_vit_block_computes_only_what_the_features_use():
    model = build("vit").eval()
    for size in (32, 16):
        torch.testing.assert_close(model(images(size)), model.intermediate(images(size), 1)[0][:, 0])


@pytest.mark.parametrize("tokens", [17, 65, 150])
@pytest.mark.parametrize("training", [True, False])
def test_plain_and_fused_attention_agree(tokens, training):
    from multicrop.models._attention import attend, attention_weights

    q, k, v = torch.randn(3, 2, 3, tokens, 8, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training):
        ours = attend(q, k, v)
    torch.testing.assert_close(ours, torch.nn.functional.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention_weights(q, k).sum(-1), torch.ones(2, 3, tokens))


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(SMALL))
def test_the_whole_network_can_be_traced_for_compilation(arch):
    model = build(arch).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)  # one graph per crop size
    for size in (32, 16):
        torch.testing.assert_close(compiled(images(size)), model(images(size)), rtol=1e-4, atol=1e-5)
