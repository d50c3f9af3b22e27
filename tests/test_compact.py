"""ViT-Lite, CVT and CCT against numbers recorded from the released code, and what that code left out."""

import json

import _filled
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import GOLDEN
from safetensors import safe_open
from timm.layers import DropPath
from torch import Tensor

from multicrop import registry
from multicrop.models import compact
from multicrop.models._compact import Layer, SelfAttention, Transformer
from multicrop.models._maps import to_tokens
from multicrop.models._positions import fit_table
from multicrop.models._sinusoid import sinusoid
from multicrop.models._tokenizer import Tokenizer
from multicrop.weights import loading, pretrained

COMMITTED = GOLDEN / "compact_transformers"
COUNTS = json.loads((COMMITTED / "param_counts.json").read_text())["main"]
CLASSES = {
    "c100": 100,
    "fl": 102,
    "14_7x2_224": 1000,
    "14_7x2_384": 1000,
    "224": 102,
    "224_sine": 102,
}
MODELS = [
    f"{family}_{kind}"
    for family in ("vit", "cvt", "cct3x1", "cct3x2")
    for kind in ("learnable", "sine", "none")
]
LOGITS = [
    name
    for name in COUNTS
    if name == "vit_7_4_32_sine" or not ("sine" in name or name.endswith("_fl"))
]


class Recorded:
    """One file of recorded numbers: committed here, or of the full set beside the repository.

    Some of the committed ones are trimmed; full=True takes the whole file.
    """

    def __init__(self, name: str, request, full: bool = False) -> None:
        path = COMMITTED / f"{name}.safetensors"
        if full or not path.is_file():
            path = request.getfixturevalue("shared_golden") / COMMITTED.name / path.name
        with safe_open(path, "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.about = json.loads((file.metadata() or {}).get("config", "{}"))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


@pytest.fixture
def recorded(request):
    return lambda name, full=False: Recorded(name, request, full)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=1e-5 * max(1.0, theirs.abs().max().item())
    )


def small(options: dict) -> torch.nn.Module:
    """The network of a recorded file, from the words of the released code."""
    patches = options.get("n_conv_layers") is None
    kernel = (
        {"patch_size": options["kernel_size"]}
        if patches
        else {"kernel_size": options["kernel_size"]}
    )
    convolutions = {} if patches else {"conv_layers": options["n_conv_layers"]}
    convolutions |= {key: options[key] for key in ("stride", "padding") if not patches}
    sizes = {key: options[key] for key in ("embedding_dim", "num_layers", "num_heads", "mlp_ratio")}
    words = {"embedding_dim": "embed_dim", "mlp_ratio": "vit_mlp_ratio"}
    sizes = {words.get(key, key): value for key, value in sizes.items()}
    kinds = {
        "positional_embedding": options["positional_embedding"],
        "class_token": options["class_token"],
    }
    name = "vit_7" if patches else "cct_7"
    return compact.build(
        options["img_size"], name=name, **kernel, **convolutions, **sizes, **kinds
    ).eval()


def load(model: torch.nn.Module, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Load a published state dict, all of it; returns the classifier's weight and bias."""
    head = [state.pop(f"classifier.fc.{name}") for name in ("weight", "bias")]
    report = loading.load_by_name(model, state, compact.adapt)
    assert not (report.missing or report.unused or report.misshapen)
    return head


def network(file: Recorded) -> tuple[torch.nn.Module, tuple[Tensor, Tensor]]:
    state = file.part("sd/")
    model = small(file.about["kwargs"] | {"class_token": "classifier.class_emb" in state})
    return model, load(model, state)


# Parts.


@pytest.mark.parametrize("name", ["tok_conv3x1", "tok_conv3x2", "tok_conv7x2", "tok_patch4"])
def test_tokenizer(recorded, name):
    file = recorded(name)
    options = file.about["kwargs"]
    sizes = {key: options[key] for key in ("kernel_size", "stride", "padding", "in_planes")}
    model = Tokenizer(
        3,
        options["n_output_channels"],
        conv_layers=options["n_conv_layers"],
        pool=options["max_pool"],
        **sizes,
    )
    model.load_state_dict(file.part("sd/"))
    maps = model(file["input"])
    close(to_tokens(maps), file["output"])
    assert maps.shape[-2:] == tuple(model.side(size) for size in file["input"].shape[-2:])


@pytest.mark.parametrize("training", [True, False])  # another attention kernel
def test_attention(recorded, training):
    file = recorded("attn_selfatt")
    model = SelfAttention(**file.about["kwargs"]).eval()
    model.load_state_dict(file.part("sd/"))
    with torch.set_grad_enabled(training):
        close(model(file["input"]), file["output"])


def test_layer_overwrites_the_stream_with_its_second_norm(recorded):
    file = recorded("encoder_layer")
    attention = SelfAttention(24, 3, attn_drop_rate=0.0)
    published = Layer(24, attention, mlp_ratio=2).eval()
    published.load_state_dict(file.part("sd/"))
    close(published.attend(file["input"], None) - file["input"], file["mid/attn_out"])
    close(published.norm1(published.attend(file["input"], None)), file["mid/after_norm1"])
    close(published(file["input"], None), file["output"])
    ordinary = Layer(24, attention, mlp_ratio=2, pre_norm=True).eval()
    ordinary.load_state_dict(file.part("sd/"))
    difference = published.attend(file["input"], None) - file["mid/after_norm1"]
    close(ordinary(file["input"], None), file["output"] + difference)


@pytest.mark.parametrize("name", ["seqpool", "clstoken"])
def test_positions_norm_and_pooling(recorded, name):
    file = recorded(name)
    state = file.part("sd/")
    head = [state.pop("fc.weight"), state.pop("fc.bias")]
    model = Transformer(
        0, 16, num_layers=0, attention=None, mlp_ratio=2, class_token=name == "clstoken"
    ).eval()
    model.positional_emb.data = torch.zeros_like(
        state["positional_emb"]
    )  # recorded for 10 tokens, which is no square
    model.load_state_dict(state)
    tokens = file["mid/tokens_with_pe"]
    own = (
        file["input"]
        if name == "seqpool"
        else torch.cat([state["class_emb"].expand(3, -1, -1), file["input"]], 1)
    )
    close(own + model.positional_emb, tokens)
    close(model.norm(tokens), file["mid/norm_out"])
    close(model.pool(tokens), file["mid/pooled"])
    close(F.linear(model.pool(tokens), *head), file["output"])


def test_stochastic_depth_keeps_or_drops_whole_samples(recorded):
    file = recorded("drop_path")
    torch.manual_seed(0)
    ours = DropPath(0.25).train()(file["input"])
    kept = ours.flatten(1).any(1)
    assert kept.any()
    assert not kept.all()
    both = kept & file["kept"].bool()  # theirs are other draws of the same generator
    close(ours[both], file["output"][both])
    close(ours, file["input"] / 0.75 * kept[:, None, None])


def test_rates_of_stochastic_depth_rise_linearly():
    drops = [
        getattr(block.drop_path, "drop_prob", 0.0) for block in compact.build(32).transformer.blocks
    ]
    assert drops == pytest.approx([0.1 * index / 6 for index in range(7)])


@pytest.mark.parametrize("full", [False, True])
def test_sine_table(recorded, full):
    tables = recorded("sine_pe", full).tensors
    assert len(tables) == (4 if full else 2)
    for name, table in tables.items():
        count, dim = (int(word[1:]) for word in name.split("_"))
        close(sinusoid(count, dim), table)


@pytest.mark.parametrize("case", range(5))
def test_learned_table_of_another_grid(recorded, case):
    file = recorded("pe_resize", full=case not in (0, 2))
    prefix = file.about["cases"][case]["num_tokens"]
    close(fit_table(file[f"in{case}"], file[f"out{case}"], prefix, "bilinear"), file[f"out{case}"])


# Networks.


@pytest.mark.parametrize("name", [*MODELS, "cct7x2_learnable"])
def test_small_networks(recorded, name):
    file = recorded(name)
    model, head = network(file)
    tokens, grid = model.tokens(file["input"])
    close(tokens, file["mid/tokens"])
    features, blocks = model.transformer.forward_blocks(tokens, grid)
    for index, block in enumerate(blocks):
        close(block, file[f"mid/block{index}"])
    close(features, file["mid/pooled"])
    close(F.linear(model(file["input"]), *head), file["output"])
    features, maps = model.forward_maps(file["input"])
    close(features, file["mid/pooled"])
    prefix = model.transformer.num_tokens
    close(to_tokens(maps["blocks.1"]), file["mid/block1"][:, prefix:])
    assert all(maps[key].shape == (2, place.width, *grid) for key, place in model.maps.items())


def test_gradients(recorded):
    file = recorded("cct3x2_learnable_grads")
    model, head = network(recorded("cct3x2_learnable"))
    loss = F.cross_entropy(F.linear(model(file["input"]), *head), file["target"])
    close(loss, file["loss"])
    loss.backward()
    theirs = {key: value for key, value in file.part("grad/").items() if "fc." not in key}
    theirs = {key.replace("classifier.", "transformer."): value for key, value in theirs.items()}
    ours = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        tolerance = max(1e-5, 1e-3 * gradient.abs().max().item())
        torch.testing.assert_close(
            ours[key], gradient, rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("full", [False, True])
def test_a_published_file_of_another_size_and_number_of_classes(recorded, tmp_path, full):
    """The full recording holds every parameter after loading, the copy here the table alone."""
    source, file = recorded("vit_learnable"), recorded("load_interp_vit", full)
    path = tmp_path / "vit.pth"
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in source.part("sd/").items()}}, path
    )
    found = pretrained.read(path)
    assert found.head["weight"].shape == (10, 32)
    model = small(file.about["kwargs"] | {"class_token": True})
    report = loading.load_by_name(model, found.backbone, compact.adapt)
    assert not (report.missing or report.unused or report.misshapen)
    theirs = compact.adapt(file.part("sd/"), model)
    for name, value in model.state_dict().items():
        if full or name in theirs:
            close(value, theirs[name])
    logits = F.linear(model(file["input"]), found.head["weight"], found.head["bias"])
    close(logits, file["output"])


def test_a_loaded_file_of_another_size(recorded):
    source, file = recorded("cct3x2_learnable"), recorded("load_interp_cct3x2")
    model = small(file.about["kwargs"] | {"class_token": False})
    load(model, source.part("sd/"))
    head = [file[f"sd/classifier.fc.{name}"] for name in ("weight", "bias")]
    close(F.linear(model(file["input"]), *head), file["output"])


def test_another_crop_size_has_the_positions_that_a_loaded_file_would_have():
    torch.manual_seed(0)
    for name in ("vit_2_4", "cvt_2_4", "cct_2_3x2"):
        large, little = compact.build(32, name=name).eval(), compact.build(16, name=name).eval()
        loading.load_by_name(little, large.state_dict(), compact.adapt)
        x = torch.randn(2, 3, 16, 16)
        close(large(x), little(x))


def entry_shapes(request, name: str) -> dict[str, list[int]]:
    keys = json.loads((COMMITTED / "state_dict_keys.json").read_text())
    if f"main/{name}" not in keys:
        keys = json.loads(
            (
                request.getfixturevalue("shared_golden") / COMMITTED.name / "state_dict_keys.json"
            ).read_text()
        )
    return keys[f"main/{name}"]


def filled_logits(request, name: str) -> Tensor:
    """The logits of a registered network at its own size whose weights follow the recorded rule."""
    fixed = ("classifier.positional_emb",) if "sine" in name else ()
    state = _filled.state(entry_shapes(request, name), fixed)
    size = compact.VARIANTS[name]["image_size"]
    model = registry.backbone(name).eval()
    head = load(model, state)
    with torch.no_grad():
        return F.linear(model(_filled.images(2 if size == 32 else 1, size)), *head)


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.slow
def test_registered_networks(request, recorded, name):
    file = recorded("registered_logits")
    if f"main/{name}" not in file.tensors:
        path = (
            request.getfixturevalue("shared_golden")
            / COMMITTED.name
            / "registered_logits.safetensors"
        )
        file.tensors = loading.read_content(path)
    theirs = file[f"main/{name}"]
    torch.testing.assert_close(
        filled_logits(request, name),
        theirs,
        rtol=0,
        atol=2e-5 * max(1.0, theirs.abs().max().item()),
    )


# Names, numbers and options.


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name):
    with torch.device("meta"):
        model = registry.backbone(name)
    classes = next((count for end, count in CLASSES.items() if name.endswith(end)), 10)
    total = sum(parameter.numel() for parameter in model.parameters()) + classes * (model.dim + 1)
    positions = (
        model.transformer.sine.numel() if "sine" in name else 0
    )  # theirs are a parameter, or even learned
    assert total + positions == COUNTS[name]["params"]
    if name.startswith("vit"):
        assert total == COUNTS[name]["trainable"]


def test_every_registered_name_is_there():
    assert set(COUNTS) <= set(compact.VARIANTS)
    assert len(COUNTS) == 35


@pytest.mark.parametrize(
    "spelling", ["cct_7_3x1_32", "CCT-7-3x1-32", "cct7_3x1_32", "CCT_7_3X1_32"]
)
def test_spellings_of_a_name(spelling):
    assert registry.architecture(spelling).options["name"] == "cct_7_3x1_32"


def test_no_two_names_read_the_same():
    names = [*registry.names("models"), *registry.variants()]
    plain = [name.replace("_", "").replace("-", "") for name in names]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("name", [name for name in compact.VARIANTS if "sine" in name])
def test_sine_names_have_sine_positions(name):
    with torch.device("meta"):
        model = registry.backbone(name)
    assert model.transformer.positional_embedding == "sine"
    assert not any("positional" in key for key in model.state_dict())


def test_custom_route():
    model = registry.backbone("cct_14", 224, kernel_size=5, conv_layers=3)
    assert model.tokenizer.side(224) == 28
    assert sum(parameter.numel() for parameter in model.parameters()) + 385 * 1000 == 22_101_033
    by_name = registry.backbone("compact:cct_14_5x3", 224)
    assert {key: value.shape for key, value in by_name.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("arch", "options", "side"),
    [
        ("compact:cct_2_7x2", {}, 2),  # stride 2 and pooling twice
        ("compact:cct_2_3x1", {"stride": 2, "padding": 0}, 8),
        ("compact:cct_2_5x1", {"in_planes": 16, "conv_layers": 2}, 8),
        ("compact:CVT-2-8", {"class_token": True}, 4),
        ("vit_lite", {"class_token": False, "patch_size": 2}, 16),
    ],
)
@pytest.mark.parametrize("positions", ["learnable", "sine", "none"])
def test_options(arch, options, side, positions):
    small = {"num_layers": 2, "embed_dim": 32, "num_heads": 2}
    model = registry.backbone(arch, 32, **small, **options, positional_embedding=positions).eval()
    assert model.tokens(torch.zeros(1, 3, 32, 32))[1] == (side, side)
    for height, width in ((32, 32), (16, 32), (48, 48)):
        assert model(torch.randn(2, 3, height, width)).shape == (2, 32)


def test_positions_are_what_they_say():
    """Without positions the order of the patches does not matter; with them it does."""
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind in ("learnable", "sine", "none"):
        torch.manual_seed(0)
        model = compact.build(32, name=f"cvt_2_8_{kind}").eval()
        difference = (model(x) - model(torch.roll(x, 8, -1))).abs().max()
        assert (difference < 1e-5) == (kind == "none")


def test_sine_positions_of_larger_grids_are_computed():
    model = compact.build(16, name="vit_2_4_sine")
    assert torch.equal(model.transformer.positions((4, 4)), sinusoid(17, 128))
    assert torch.equal(model.transformer.positions((8, 8)), sinusoid(65, 128))
    assert torch.equal(model.transformer.positions((2, 3)), sinusoid(7, 128))


def test_a_learned_table_under_a_sine_name_is_reported_not_ignored():
    learned, sine = compact.build(16, name="cct_2_3x1"), compact.build(16, name="cct_2_3x1_sine")
    report = loading.load_by_name(sine, learned.state_dict(), compact.adapt)
    assert report.unused == ["transformer.positional_emb"]
    state = sine.state_dict() | {"transformer.positional_emb": sinusoid(256, 128)}
    assert loading.load_by_name(sine, state, compact.adapt).unused == []
    assert (
        loading.load_by_name(learned, state, compact.adapt).missing == []
    )  # as the released code runs such a file


def test_attention_dropout_acts_in_training_only():
    options = {"name": "cct_2_3x1", "drop_path_rate": 0.0}
    x = torch.randn(2, 3, 16, 16)
    for rate in (0.1, 0.0):
        model = compact.build(16, **options, attn_drop_rate=rate).train()
        assert torch.equal(model(x), model(x)) == (rate == 0)
        model.eval()
        assert torch.equal(model(x), model(x))


def test_initial_values():
    torch.manual_seed(0)
    model = compact.build(32, name="vit_7_4")
    transformer, convolution = model.transformer, model.tokenizer.conv_layers[0][0]
    assert not transformer.class_emb.any()
    assert transformer.positional_emb.std().item() == pytest.approx(0.2, rel=0.05)
    assert convolution.weight.std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.05)
    assert convolution.bias.abs().max() <= 48**-0.5
    for name, value in transformer.blocks.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (value == float("norm" in name and name.endswith("weight"))).all()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.05)
    pool = compact.build(32).transformer.attention_pool
    assert not pool.bias.any()
    assert pool.weight.std().item() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cct_9_3x1"}, "no compact transformer is called 'cct_9_3x1'"),
        ({"name": "vit_7_3x1"}, "no compact transformer is called 'vit_7_3x1'"),
        ({"name": "cct_7_3"}, "no compact transformer is called 'cct_7_3'"),
        ({"patch_size": 4}, "cct_7_3x1 has no option patch_size: its tokenizer takes kernel_size"),
        (
            {"name": "cvt_7_4", "kernel_size": 3},
            "cvt_7_4 has no option kernel_size: its tokenizer takes patch_size",
        ),
        ({"name": "cvt_7_5"}, "patch size 5 does not divide image size 32"),
        ({"kernel_size": 0}, "kernel_size is 0; it must be at least 1"),
        ({"padding": -1}, "padding is -1; it must be at least 0"),
        ({"kernel_size": 40, "padding": 1}, "images of 32 px are too small for these convolutions"),
        (
            {"positional_embedding": "cosine"},
            "positional_embedding is 'cosine'; it must be learnable, sine or none",
        ),
    ],
)
def test_options_that_clash_are_one_line_errors(options, message):
    with pytest.raises(ValueError, match=message) as error:
        compact.build(32, **options)
    assert "\n" not in str(error.value)


def test_images_that_do_not_fit_are_one_line_errors():
    with pytest.raises(ValueError, match="15 px is no whole number of 4 px patches"):
        compact.build(32, name="vit_2_4")(torch.zeros(1, 3, 15, 15))
    with pytest.raises(
        ValueError, match=r"images \(batch, 3, height, width\), not \(1, 1, 32, 32\)"
    ):
        compact.build(32)(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="4 x 4 px is too small"):
        compact.build(32, kernel_size=7, padding=1)(torch.zeros(1, 3, 4, 4))


def test_tokenizer_pools_before_relu_as_well_as_after_it():
    """Published is ReLU before the pooling: the same tokens and gradients, of equal values and of zeros, too."""
    tokenizer = Tokenizer(3, 8, kernel_size=3, stride=1, padding=1, conv_layers=2).double()
    published = nn.Sequential()
    for stage in tokenizer.conv_layers:
        published.extend([stage[0], nn.ReLU(), nn.MaxPool2d(3, 2, 1)])
    few_values = torch.randint(-2, 3, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    x = few_values.double()
    gradients = []
    for network in (tokenizer, published):
        output = network(x)
        wanted = torch.autograd.grad(output.square().sum(), tokenizer.parameters())
        gradients.append([output, *wanted])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_tokenizer_pools_over_neighbouring_channels_on_a_cpu(channels):
    tokenizer = Tokenizer(channels, 8, kernel_size=3, stride=1, padding=1)
    assert tokenizer(torch.rand(2, channels, 16, 16)).is_contiguous(
        memory_format=torch.channels_last
    )
