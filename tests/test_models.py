"""Every backbone obeys one contract: images (B, C, h, w) of the global and of the local size -> features (B, dim).

A new file in models/ and a new name in its VARIANTS are tested by existing. Networks are made small by their options;
the full sizes are in the tests of each family.
"""

import copy
import dataclasses
import inspect
import math
import os
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import recipe

from multicrop import registry
from multicrop.commands import pretrain
from multicrop.commands._student import build as build_networks
from multicrop.config.pretrain import Recipe
from multicrop.datasets import shapes
from multicrop.engine.batches import Batches
from multicrop.ssl.crops import MultiCrop
from multicrop.supervised.classifier import Classifier
from multicrop.weights import loading

FAMILIES = [name for name in registry.names("models") if name != "timm"]
VARIANTS = {
    name: module.__name__.rpartition(".")[2] for name, module in registry.variants().items()
}
GENERIC = {
    "embed_dim": 24,
    "num_layers": 2,
    "num_heads": 2,
}  # where a family has the option; 1 block a stage
SMALL = {
    "vit": {"embed_dim": 24, "num_layers": 2, "num_heads": 3},
    "swin": {"embed_dim": 12, "depths": (2, 2, 1), "num_heads": 2},
}
TIMM = {
    "timm:vit_tiny_patch16_224": {"patch_size": 8},
    "timm:resnet10t": {},
    "timm:mobilenetv3_small_050": {},
}
KINDS = (
    "grassmanian_vit_6_4_32",
    "riemmanian_vit_6_4_32",
    "deit_tiny_distilled",
)  # what a family's default is not
OF_OTHER_PARTS = (  # made of other modules than what is tested above
    "vit_2_4_32", "cvt_2_4_32", "early_fusion__vit_2_4_32", "img_gm_vit_2_4_32", "img_riem_vit_2_4_32",
    "gm_riem_vit_2_4_32", "localvit_tiny_mlp6_act1", "manifold_vit_2_4_32", "manifold_cct_2_3x2_32",
    "grassmanian_cct_2_3x2_32", "resnet18", "resnet50",
)  # fmt: skip
GANI = ("vit", "swin", "cait")
STILL = {  # parameters that no features depend on, by family or variant
    # The same is added to a query's logits for all keys, which the softmax takes away; the pool's bias too.
    "cait": r"blocks\.\d\.attn\.proj_l\.bias|blocks_token_only\.\d\.attn\.k\.bias",
    "compact": r"transformer\.attention_pool\.bias",
    "manifold": r"transformer\.(attention_pool|blocks\.\d\.self_attn\.conv_attn\.\d)\.bias",
    # So are keys' biases; and of the last block only the class token's query is used, which is not convolved.
    "cvt": r"stage\d\.blocks\.\d\.attn\.(conv_proj_k\.bn|proj_k)\.bias|stage2\.blocks\.0\.attn\.conv_proj_q\..+",
    # A batch norm follows, which takes away what is added to a channel.
    "dhvt": r"blocks\.\d\.mlp\.conv\d\.bias",
    "timm:mobilenetv3_small_050": r"blocks\.\d\.\d\.bn\d\.bias",
    # The class token skips the feed-forwards, so the last one is seen by the patches alone, in the last map.
    "localvit": r"blocks\.1\.conv\..+",
    "localvit_t2t": r"blocks\.1\.conv\..+",
    "localvit_tnt": r"blocks\.1\.conv\..+",
    "localvit_pvt": r"layers\.3\.blocks\.0\.conv\..+",
    # At 32 px its images leave one key, for which there is no choice, and a last map of one pixel.
    "localvit_pvt_tiny": r"layers\.[012]\.blocks\.0\.attn\.q\..+",
    "localvit_swin_tiny_patch4_window7_224": r"layers\.3\.blocks\.0\.attn\.relative_position_bias_table",
    # Each block's last norm starts at 0, and with it what the block adds.
    "timm:resnet10t": r"layer\d\.0\.(conv1|bn1|conv2)\..+",
}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def small(family: str) -> dict:
    """Options that make a network of a family small."""
    takes = inspect.signature(registry.find("models", family).build).parameters
    options = {name: value for name, value in GENERIC.items() if name in takes}
    if "depths" in takes:
        options["depths"] = (1,) * len(takes["depths"].default)
    return SMALL.get(family, options)


OPTIONS = {name: small(name) for name in FAMILIES} | {"resnet": {"depth": 8}} | TIMM
OPTIONS |= {name: small(VARIANTS[name]) for name in KINDS}


def build(arch: str, image_size: int = 32, **more) -> torch.nn.Module:
    """A small seeded network; scales of a block's output that start near 0 would hide it, so they are set to 0.5."""
    torch.manual_seed(0)
    options = OPTIONS[arch] if arch in OPTIONS else small(VARIANTS[arch])
    model = registry.backbone(arch, image_size, **options | more)
    for name, parameter in model.named_parameters():
        if "gamma_" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return model


def parts(model: torch.nn.Module) -> frozenset[type]:
    """The kinds of modules that a network is made of."""
    return frozenset(type(module) for module in model.modules())


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


def check_gradients(
    arch: str, model: torch.nn.Module, features, batches: list[torch.Tensor]
) -> None:
    """Every parameter has a finite gradient for each batch, above rounding for at least one, but those of STILL.

    The loss is a random sum of features: a sum of squares is the same whatever goes into a last layer norm.
    """
    still = {name for name, _ in model.named_parameters()}
    for x in batches:
        model.zero_grad()
        found = features(x)
        probe = torch.randn(
            found.shape, generator=torch.Generator().manual_seed(0), dtype=found.dtype
        )
        (found * probe).sum().backward()
        missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not missing
        sizes = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
        assert all(math.isfinite(size) for size in sizes.values())
        still -= {name for name, size in sizes.items() if size > 1e-12 * max(sizes.values())}
    known = [STILL[name] for name in (arch, VARIANTS.get(arch)) if name in STILL]
    assert [name for name in sorted(still) if not re.fullmatch("|".join(known), name)] == []


def test_every_parameter_gets_a_gradient_in_training(arch):
    """In double precision, where zero and little are far apart: 1e-16 and, in the early attention of CaiT, 1e-9."""
    exact = (
        torch.float32 if "t2t" in arch else torch.float64
    )  # the performer's attention is always in float32
    model = build(arch).to(exact).train()
    check_gradients(arch, model, model, [images(size, batch=3).to(exact) for size in (32, 16)])


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
    adapted = registry.architecture(arch).module.adapt(state, model)
    assert adapted.keys() == state.keys()
    assert all(torch.equal(adapted[name], state[name]) for name in state)


def test_bfloat16_autocast_is_close_to_float32(arch):
    model = build(arch).eval()
    with torch.no_grad():
        exact = model(images(32))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images(32)).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_have_the_names_widths_and_strides_that_are_promised(family):
    model = build(family).eval()
    names = list(model.maps)
    assert names in (
        [f"blocks.{i}" for i in range(len(names))],
        [f"s{i + 1}" for i in range(len(names))],
    )
    assert (
        list(model.stages) == [name for name in names if name in model.stages]
        and model.stages[-1] == names[-1]
    )
    attributes = set(vars(model))
    for shape in ((32, 32), (16, 16), (32, 16)):
        x = images(32)[..., : shape[0], : shape[1]]
        features, maps = model.forward_maps(x)
        torch.testing.assert_close(features, model(x), rtol=1e-4, atol=1e-5)
        assert list(maps) == names
        for name, (width, stride) in model.maps.items():
            assert maps[name].shape[:2] == (2, width)
            sides = zip(shape, maps[name].shape[2:], strict=True)
            assert all(
                abs(side / stride - found) <= 1 for side, found in sides
            )  # PiT's patches lose a row
    assert set(vars(model)) == attributes


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_through_every_map_and_each_map_is_laid_out_as_its_image(family):
    """A change in the lower right corner of the image changes that corner of the first map most."""
    model = build(family).eval()
    x = images(32).requires_grad_()
    features, maps = model.forward_maps(x)
    for found in (*maps.values(), features):
        (gradient,) = torch.autograd.grad(found.square().sum(), x, retain_graph=True)
        assert gradient.abs().sum() > 0
    with torch.no_grad():
        changed = x.clone()
        changed[..., 24:, 24:] += 1
        first = next(iter(maps))
        change = (model.forward_maps(changed)[1][first] - maps[first]).abs().mean((0, 1))
    rows, columns = (size // 2 for size in change.shape)
    assert change[rows:, columns:].mean() > change[:rows, columns:].mean()
    assert change[rows:, columns:].mean() > change[rows:, :columns].mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_attaches(family):
    model = Classifier(build(family), 5)
    F.cross_entropy(model(images(32)), torch.tensor([0, 4])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_another_image_size_fit(family):
    """Tables are resampled: nothing keeps its first values or is left out."""
    source = build(family, 32)
    patch = {"patch_size": source.patch_size} if getattr(source, "patch_size", None) else {}
    model = build(family, 48, **patch).eval()
    report = loading.load_by_name(model, source.state_dict(), registry.find("models", family).adapt)
    assert not report.misshapen and not report.missing
    with torch.no_grad():
        assert model(images(48)).isfinite().all()


@pytest.fixture(scope="module")
def known_parts() -> set[frozenset[type]]:
    """What the networks are made of that test_exportable.py takes, one of each."""
    return {parts(build(arch)) for arch in (*OPTIONS, *OF_OTHER_PARTS)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_variants_made_small(variant, known_parts):
    """Each registered name keeps the contract at 32 px with its own options but the sizes."""
    model = build(variant).train()
    assert parts(model) in known_parts, "a name for OF_OTHER_PARTS"

    def features(x: torch.Tensor) -> torch.Tensor:
        found, maps = model.forward_maps(x)
        assert found.shape == (3, model.dim) and list(maps) == list(model.maps)
        return found

    check_gradients(variant, model, features, [images(size, batch=3) for size in (32, 16)])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_maps(images(16))[0], model(images(16)), rtol=1e-4, atol=1e-5
        )


def test_other_numbers_of_channels(arch):
    model = build(arch, in_channels=1).eval()
    assert model(images(32, channels=1)).shape == (2, model.dim)


@pytest.mark.parametrize(
    "arch", [name for name in FAMILIES if name != "resnet"]
)  # which has neither
def test_drop_rate_and_drop_path_act_in_training_only(arch):
    model, x = build(arch, drop_rate=0.5, drop_path_rate=0.0), images(32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("arch", FAMILIES)
def test_images_need_not_be_square(arch):
    model, x = build(arch).eval(), images(32)
    assert model(x[:, :, :16]).shape == (2, model.dim)
    assert not torch.allclose(model(x[:, :, :16]), model(x[:, :, :, :16]), rtol=1e-3)


@pytest.mark.parametrize("arch", GANI)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": 5},
            "patch size 5 does not divide image size 32; the nearest that do: 4 and 8",
        ),
        ({"patch_size": 0}, "at least 1 px"),
        ({"embed_dim": 25}, "cannot share embedding width 25"),
        ({"num_heads": 0}, "at least 1"),
    ],
)
def test_sizes_that_clash_are_refused_at_build(arch, options, message):
    with pytest.raises(ValueError, match=message):
        build(arch, **options)


@pytest.mark.parametrize("arch", GANI)
def test_images_of_wrong_size_or_channels_are_refused_at_forward(arch):
    model = build(arch, patch_size=4)
    with pytest.raises(
        ValueError,
        match="15 px is no whole number of 4 px patches; the nearest that are: 12 and 16",
    ):
        model(images(15))
    with pytest.raises(
        ValueError, match=r"images \(batch, 3, height, width\), not \(2, 1, 32, 32\)"
    ):
        model(images(32, channels=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_impossible_options_are_refused_in_one_line(family):
    takes = inspect.signature(registry.find("models", family).build).parameters
    for name in {"patch_size", "embed_dim", "num_heads", "num_layers"} & takes.keys():
        refused_in_one_line(lambda name=name: build(family, **{name: 0}))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_taken_at_any_size_or_refused_in_one_line(family):
    model = build(family).eval()
    with torch.no_grad():
        for size in (1, 2, 3, 5, 8, 15, 17, 24, 33, 40):
            try:
                assert model(images(size)).isfinite().all()
            except ValueError as error:
                assert "\n" not in str(error) and str(size) in str(error), error
    for wrong in (images(32, channels=1), images(32)[0]):
        refused_in_one_line(lambda wrong=wrong: model(wrong))


def refused_in_one_line(action) -> None:
    with pytest.raises(ValueError) as caught:
        action()
    assert "\n" not in str(caught.value)


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
    state = registry.find("models", arch).adapt(small.state_dict(), large)
    large.load_state_dict(state)
    torch.testing.assert_close(large(images(48)), small(images(48)), rtol=1e-5, atol=1e-5)


def test_adapt_resamples_bias_tables_of_another_swin_window():
    small, large = build("swin", 16), build("swin", 32)  # the last stage's maps are 2 x 2 and 4 x 4
    adapted = registry.find("models", "swin").adapt(small.state_dict(), large)
    large.load_state_dict(adapted)
    key = "layers.2.blocks.0.attn.relative_position_bias_table"
    ours, theirs = adapted[key].view(7, 7, -1), small.state_dict()[key].view(3, 3, -1)
    torch.testing.assert_close(ours[::3, ::3], theirs)


def test_adapt_resamples_a_timm_position_table():
    arch = "timm:vit_tiny_patch16_224"
    state = registry.find("models", "timm").adapt(build(arch, 64).state_dict(), build(arch, 32))
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
    model = registry.backbone(f"timm:{name}", 32, **options).eval()
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
        registry.backbone("timm:resnet10t", 32, patch_size=4)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet19", "resnet18"), ("vit_tiny_patch16", "vit_tiny_patch16_224")]
)
def test_unknown_timm_names_name_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"no model '{name}'; the nearest: .*{near}"):
        registry.backbone(f"timm:{name}", 32)
    with pytest.raises(ValueError, match="needs a model's name"):
        registry.backbone("timm", 32)


def test_last_vit_block_computes_only_what_the_features_use():
    model = build("vit").eval()
    for size in (32, 16):
        torch.testing.assert_close(
            model(images(size)), model.intermediate(images(size), 1)[0][:, 0]
        )


@pytest.mark.parametrize("tokens", [17, 65, 150])
@pytest.mark.parametrize("training", [True, False])
def test_plain_and_fused_attention_agree(tokens, training):
    from multicrop.models._attention import attend, attention_weights

    q, k, v = torch.randn(3, 2, 3, tokens, 8, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training):
        ours = attend(q, k, v)
    torch.testing.assert_close(
        ours, torch.nn.functional.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(attention_weights(q, k).sum(-1), torch.ones(2, 3, tokens))


TRACED = ("vit", "swin", "cait", "cvt", "manifold")  # in training too


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "training"),
    [*((arch, False) for arch in FAMILIES), *((arch, True) for arch in TRACED)],
)
def test_the_whole_network_can_be_traced_for_compilation(arch, training):
    """Without a graph break, at the local crops' size, for which positions are resampled.

    In training stochastic depth draws the same; attention's dropout does not, which sees what depth has kept.
    """
    takes = inspect.signature(registry.find("models", arch).build).parameters
    model = build(
        arch, **({"attn_drop_rate": 0.0} if "attn_drop_rate" in takes else {}), drop_path_rate=0.5
    )
    model.train(training)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    found = []
    for network in (compiled, model):
        torch.manual_seed(0)
        found.append(network(images(16, batch=4)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    if training:
        found[0].square().sum().backward()


@pytest.fixture(scope="module")
def recipe_and_crops():
    """The embedded data set, batches of 4 and two local crops."""
    r = recipe(
        Recipe, image_size=32, local_crops_number=2, batch_size_per_gpu=4, out_dim=32, head_hidden_dim=16,
        head_bottleneck_dim=8, lr=0.1, epochs=1, warmup_epochs=0, device="cpu",
    )  # fmt: skip
    data = shapes.load("", "train", train_images=12)
    batches = Batches(data.pixels, None, 4, seed=0, device=torch.device("cpu"))
    crop = MultiCrop.from_recipe(r, data.mean, data.std)
    return r, [list(pretrain.cut_crops(batches, crop, 0, step)) for step in range(3)]


def with_network(r: Recipe, **sizes) -> Recipe:
    return dataclasses.replace(r, backbone=dataclasses.replace(r.backbone, **sizes))


def three_steps(r: Recipe, crops: list) -> None:
    nets = build_networks(r, 3, torch.device("cpu"))
    first = next(nets.student.backbone.parameters())
    before = first.detach().clone()
    for step, parts in enumerate(crops):
        rates = pretrain.rates_at(r, step, len(crops), len(crops), 4)
        schedule = nets.objective.schedule(0)
        seen = pretrain.update(nets, parts, rates, schedule, r, None, step)
        assert seen.loss.isfinite() and seen.grad_norm.isfinite() and seen.grad_norm > 0
    assert not torch.equal(before, first)


ONE_OF_EACH = {
    family: variant for variant, family in reversed(VARIANTS.items())
}  # a family's first variant


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted({*FAMILIES, *ONE_OF_EACH.values(), *KINDS}))
def test_three_steps_of_stage_one(arch, recipe_and_crops):
    """Made small by the flags of stage one; every registered name takes them below, in full size."""
    r, crops = recipe_and_crops
    takes = inspect.signature(registry.architecture(arch).module.build).parameters
    sizes = {name: value for name, value in GENERIC.items() if name in takes}
    three_steps(with_network(r, arch=arch, **sizes), crops)


@pytest.mark.slow
@pytest.mark.skipif(
    "MULTICROP_FULL_SIZE" not in os.environ,
    reason="a quarter of an hour: set MULTICROP_FULL_SIZE=1",
)
@pytest.mark.parametrize("arch", [*FAMILIES, *VARIANTS])
def test_three_steps_of_stage_one_in_full_size(arch, recipe_and_crops):
    r, crops = recipe_and_crops
    three_steps(with_network(r, arch=arch), crops)
