"""Transformers on manifolds against numbers recorded from two revisions of the published code, and our promises."""

import json
import re

import _filled
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from test_compact import Recorded, close

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.models import _descriptor, fusion, manifold
from multicrop.models._compact import Layer
from multicrop.models._manifold_attention import (
    FUSIONS,
    FusedAttention,
    GrassmannAttention,
    RiemannianAttention,
)
from multicrop.models._map_norm import MapNorm
from multicrop.models._maps import to_tokens
from multicrop.weights import loading, pretrained

FORK = json.loads((GOLDEN / "compact_transformers" / "fork.json").read_text())
NEVER_USED = ("attn_matrix", "scale")  # stored by the published code, with no part in its output
ATTENTION = [
    *(
        "f1_att_all",
        "f1_att_grass_proj",
        "f1_att_riem",
        "f1_att_riem_noln",
        "f1_att_riemannian",
        "f1_att_riemgrass",
    ),
    *(
        "f2_att_all_ln",
        "f2_att_all_noln",
        "f2_att_gm_ln",
        "f2_att_gm_noln",
        "f2_att_grass_proj",
        "f2_att_riemannian",
    ),
    *("f2_att_riemgrass", "f2_att_spd"),
]
NETWORKS = [
    *("f1_manifold_vit_riem", "f1_manifold_vit_all", "f1_manifold_cvt_riem", "f1_manifold_cvt_all"),
    *(
        "f1_manifold_cvt_all_sine",
        "f1_manifold_cct_riem",
        "f1_manifold_cct_all",
        "f1_grassmanian_vit",
    ),
    *(
        "f1_grassmanian_cct",
        "f1_riemmanian_vit",
        "f2_manifold_vit_spd",
        "f2_manifold_vit_all",
        "f2_manifold_vit_gm",
    ),
    *(
        "f2_manifold_cvt_spd",
        "f2_manifold_cvt_all",
        "f2_manifold_cct_all",
        "f2_manifold_cct_all_noln",
    ),
    *(
        "f2_grassmanian_vit",
        "f2_riemmanian_vit",
        "f1_early_fusion_vit",
        "f1_img_gm_vit",
        "f1_img_riem_vit",
    ),
    *("f1_gm_riem_vit", "f1_img_gm_riem_vit"),
]
TRIMMED = ("f1_manifold_cvt_all", "f2_manifold_vit_gm")  # here, without their blocks' outputs
LOGITS = [
    f"{revision}/{name}"
    for revision, types in (("f1", ("all", "riem")), ("f2", ("all", "gm", "spd")))
    for name in [f"manifold_{base}_{size}[{kind}]" for base, size in (("vit", "6_4_32"), ("cvt", "6_4_32"),
                 ("cct", "7_3x2_32"), ("cct", "7_7x2_224")) for kind in types] + ["riemmanian_vit_6_4_32"]
]  # fmt: skip


@pytest.fixture
def recorded(request):
    return lambda name, full=False: Recorded(name, request, full)


def family(name: str):
    return manifold if name.startswith(("manifold", "grassman", "riem")) else fusion


def network(file: Recorded, name: str) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The network of a recorded file and its classifier, through the loader that users have."""
    revision, _, kind = name.partition("_")
    about = dict(file.about["kwargs"])
    prefix, base = next(
        (kind[: kind.index(base)], base) for base in ("vit", "cvt", "cct") if base in kind
    )
    words = {
        "embedding_dim": "embed_dim",
        "mlp_ratio": "vit_mlp_ratio",
        "n_conv_layers": "conv_layers",
    }
    options = {
        words.get(key, key): value
        for key, value in about.items()
        if key not in ("num_classes", "img_size")
    }
    if base != "cct":
        options["patch_size"] = options.pop("kernel_size")
    name = prefix + {"vit": "vit_7_4", "cvt": "cvt_7_4", "cct": "cct_7_3x2"}[base]
    module = family(kind)
    model = module.build(about["img_size"], name=name, revision=revision, **options).eval()
    return model, load(model, module, file.part("sd/"))


def load(model: torch.nn.Module, module, state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Load a published state dict, all of it; returns the classifier's weight and bias."""
    prefix = next(p for p in pretrained.CLASSIFIERS if p + "weight" in state)
    head = [state.pop(prefix + name) for name in ("weight", "bias")]
    report = loading.load_by_name(model, state, module.adapt)
    missing = [
        name for name in report.missing if not name.endswith(("num_batches_tracked", "scale"))
    ]
    assert not (
        missing or report.unused or report.misshapen
    )  # files made by rule have neither counts nor scales
    return head


# Attention.


def attention(name: str, options: dict) -> torch.nn.Module:
    revision, _, kind = name.replace("_att", "").partition("_")
    size = {"side": 3, "prefix": 0}
    if kind == "grass_proj":
        return GrassmannAttention(24, 3, revision, **size)
    if kind == "riemannian":
        return RiemannianAttention(24, 3, revision, **size)
    fused = FUSIONS[revision][kind.partition("_")[0]]
    plain = not options.get("ln", options.get("ln_attention", True))
    return FusedAttention(24, 3, fused._replace(norm=None) if plain else fused, **size)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(recorded, name):
    file = recorded(name)
    model = attention(name, file.about["kwargs"]).eval()
    report = model.load_state_dict(file.part("sd/"), strict=False)
    assert all(key.endswith(NEVER_USED) for key in report.unexpected_keys)
    assert report.missing_keys == (
        ["grassman_scale"] if name == "f1_att_riemgrass" else []
    )  # a constant there
    close(model(file["input"], (3, 3)), file["output"])
    if "output1" in file.tensors:
        close(model.attention(file["input"], (3, 3)), file["output1"])


@pytest.mark.parametrize(
    "name", ["f1_layer_all", "f1_layer_riem", "f2_layer_all", "f2_layer_gm", "f2_layer_spd"]
)
def test_layer(recorded, name):
    file = recorded(name)
    model = Layer(
        24, attention(name.replace("layer", "att"), file.about["kwargs"]), mlp_ratio=2
    ).eval()
    report = model.load_state_dict(file.part("sd/"), strict=False)
    assert not report.missing_keys and all(
        key.endswith(NEVER_USED) for key in report.unexpected_keys
    )
    close(model(file["input"], (3, 3)), file["output"])
    if "output1" in file.tensors:
        close(model.self_attn.attention(model.pre_norm(file["input"]), (3, 3)), file["output1"])


@pytest.mark.parametrize("name", ["f1_att_all", "f2_att_grass_proj", "f2_att_riemannian"])
def test_attention_of_autocast_is_computed_in_float32(recorded, name):
    file = recorded(name)
    model = attention(name, {}).eval()
    with torch.autocast("cpu", torch.bfloat16):
        q, k, _ = model.queries_keys_values(file["input"])
        assert model.exact_weights(q, k, (3, 3)).dtype == torch.float32
        assert model(file["input"], (3, 3)).isfinite().all()


def test_attention_dropout_also_drops_the_spd_map_of_all():
    model = FusedAttention(
        24, 3, FUSIONS["f2"]["all"]._replace(norm=None), side=3, prefix=0, attn_drop_rate=0.5
    )
    torch.nn.init.zeros_(model.conv_attn[0].bias)
    model.conv_attn[0].weight.data = torch.eye(9)[3:6, :, None, None]  # only the SPD map
    seen = []
    model.conv_attn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.conv_attn[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(0))
    model.train()(x, (3, 3))
    model.eval()(x, (3, 3))
    dropped, whole = ((maps == 0).float().mean().item() for maps in seen)
    assert 0.4 < dropped < 0.6 and whole == 0


# Networks.


@pytest.mark.parametrize(
    ("name", "full"), [*((name, False) for name in NETWORKS), *((name, True) for name in TRIMMED)]
)
def test_networks(recorded, name, full, monkeypatch):
    """With the recorded descriptors where there are some, as their signs are arbitrary in the published code."""
    file = recorded(name, full)
    model, head = network(file, name)
    tokens = to_tokens(model.tokenizer(file["input"]))
    close(tokens, file["mid/tokens"])
    if "mid/om" in file.tensors:
        descriptor = model.descriptor
        ours = _descriptor.describe(file["mid/om_in"], descriptor.order, descriptor.terms)
        close(descriptor.norm(tokens), file["mid/om_in"])
        tolerance = 2e-5 * max(1.0, file["mid/om"].abs().max().item())
        torch.testing.assert_close(ours.abs(), file["mid/om"].abs(), rtol=0, atol=tolerance)
        monkeypatch.setattr(_descriptor, "describe", lambda *_: file["mid/om"])
        close(descriptor(tokens), file["mid/om_tokens"])
    close(F.linear(model(file["input"]), *head), file["output"])
    if "mid/norm_out" in file.tensors:
        _, blocks = model.transformer.forward_blocks(*model.tokens(file["input"]))
        for index, block in enumerate(blocks):
            close(block, file[f"mid/block{index}"])
        close(model.transformer.norm(blocks[-1]), file["mid/norm_out"])
    if hasattr(model, "attention") and "output1" in file.tensors:
        close(model.attention(file["input"]), file["output1"])


def test_gradients(recorded):
    file = recorded("f1_manifold_cvt_all_grads")
    model, head = network(recorded("f1_manifold_cvt_all"), "f1_manifold_cvt_all")
    loss = F.cross_entropy(F.linear(model(file["input"]), *head), file["target"])
    close(loss, file["loss"])
    loss.backward()
    ours = {key: parameter.grad for key, parameter in model.named_parameters()}
    theirs = {
        key.replace("classifier.", "transformer."): value
        for key, value in file.part("grad/").items()
    }
    theirs = {key: value for key, value in theirs.items() if ".head." not in key}
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        tolerance = max(1e-5, 1e-3 * gradient.abs().max().item())
        torch.testing.assert_close(
            ours[key], gradient, rtol=0, atol=tolerance, msg=lambda text, key=key: key + text
        )


def test_a_published_file_of_a_fusion(recorded, tmp_path, monkeypatch):
    file = recorded("f1_img_gm_riem_vit")
    path = tmp_path / "fusion.pth"
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in file.part("sd/").items()}}, path
    )
    found = pretrained.read(path)
    options = {
        "patch_size": 4,
        "embed_dim": 32,
        "num_layers": 1,
        "num_heads": 4,
        "vit_mlp_ratio": 2.0,
    }
    model = registry.backbone("fusion:img_gm_riem_vit_7_4_f1", 16, **options).eval()
    fill_backbone(model, found, "fusion", strict=True)
    monkeypatch.setattr(_descriptor, "describe", lambda *_: file["mid/om"])
    close(F.linear(model(file["input"]), found.head["weight"], found.head["bias"]), file["output"])


@pytest.mark.parametrize(
    "entry", [pytest.param(n, marks=pytest.mark.slow) if "224" in n else n for n in LOGITS]
)
def test_registered_networks(request, entry):
    """At full size with weights made by rule; the classifier's input as published."""
    revision, _, name = entry.partition("/")
    name, _, kind = name.partition("[")
    if entry in FORK["logits"]:
        shapes, theirs = FORK["keys"][entry], torch.tensor(FORK["logits"][entry])
    else:
        folder = request.getfixturevalue("shared_golden") / "compact_transformers"
        shapes = json.loads((folder / "state_dict_keys.json").read_text())[entry]
        theirs = loading.read_content(folder / "registered_logits.safetensors")[entry]
    model = registry.backbone(
        name, revision=revision, attention_type=kind.rstrip("]") or None
    ).eval()
    head = load(model, manifold, _filled.state(shapes))
    size = manifold.VARIANTS[name]["image_size"]
    with torch.no_grad():
        logits = F.linear(model(_filled.images(2 if size == 32 else 1, size)), *head)
    close(logits, theirs)


# Names, numbers and options.


def classes(name: str) -> int:
    ends = {
        "c100": 100,
        "384_fl": 102,
        "_14_7x2_224": 1000,
        "_384": 1000,
        "_224": 102,
        "cct_nano": 1000,
        "cct_tiny": 1000,
    }
    return next((count for end, count in ends.items() if name.endswith(end)), 10)


def never_used(name: str, revision: str, kind: str, model: torch.nn.Module) -> int:
    """Parameters that the published network has and never uses."""
    first = (
        model.transformer if hasattr(model, "transformer") else next(iter(model.branches.values()))
    )
    layers, tokens = len(first.blocks), first.positional_emb.shape[1]
    if name.startswith("manifold"):
        return layers * tokens**2 if (revision, kind) == ("f1", "all") else 0
    return layers * (
        ("riem" in name) + (revision == "f2" and ("_gm_" in f"_{name}" or "grassmanian" in name))
    )


@pytest.mark.parametrize("revision", FORK["params"])
@pytest.mark.parametrize("part", ["_6_|_384$|nano", pytest.param(".", marks=pytest.mark.slow)])
def test_numbers_of_parameters(revision, part):
    counts = FORK["params"][revision]
    for entry, count in (
        (entry, counts[entry]) for entry in counts if re.search(part, entry.partition("[")[0])
    ):
        name, _, kind = entry.rstrip("]").partition("[")
        options = {"attention_type": kind} if kind else {}
        with torch.device("meta"):
            model = registry.backbone(name, revision=revision, **options)
        ours = sum(parameter.numel() for parameter in model.parameters()) + classes(name) * (
            model.dim + 1
        )
        assert ours + never_used(name, revision, kind, model) == count, entry


def test_every_registered_name_is_there():
    known = {entry.partition("[")[0] for names in FORK["params"].values() for entry in names}
    ours = manifold.VARIANTS | fusion.VARIANTS
    assert known <= ours.keys()
    assert all(name in known for name in ours if "sine" not in name)


@pytest.mark.parametrize(
    ("arch", "stack", "norm"),
    [
        ("manifold_cvt_2_4_32", 3, MapNorm),
        ("manifold:manifold_cvt_2_4_f1", 3, torch.nn.BatchNorm2d),
        ("manifold:manifold_cvt_2_4_riem", 2, MapNorm),
        ("manifold:manifold_cvt_2_4_spd", 2, torch.nn.Conv2d),
        ("manifold:manifold_cvt_2_4_32_sine_gm", 2, MapNorm),
    ],
)
def test_a_name_may_say_the_revision_and_the_attention_type(arch, stack, norm):
    layer = registry.backbone(arch, 32).transformer.blocks[0].self_attn
    assert len(layer.stack) == stack and isinstance(layer.conv_attn[0], norm)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (
            "manifold_cvt_6_4_32",
            {"attention_type": "self"},
            "attention_type 'self' is unknown; there are riem, all",
        ),
        (
            "manifold_cvt_6_4_32",
            {"attention_type": "gm", "revision": "f1"},
            r"there are riem, all, riemgrass \(f1\)",
        ),
        ("manifold_cvt_6_4_32", {"revision": "f3"}, "revision is 'f3'; it must be one of f1, f2"),
        ("riemmanian_vit_6_4_32", {"attention_type": "all"}, "are for manifold_"),
        ("grassmanian_vit_6_4_32", {"ln_attention": False}, "are for manifold_"),
        ("manifold:vit_6_4", {}, "no network on manifolds is called 'vit_6_4'"),
        ("manifold:manifold_swin_6_4", {}, "no compact transformer is called 'swin_6_4'"),
        ("fusion:gm_img_vit_6_4", {}, "no fusion is called 'gm_img_vit_6_4'"),
    ],
)
def test_what_there_is_not(arch, options, message):
    with pytest.raises(ValueError, match=message):
        registry.backbone(arch, 32, **options)


@pytest.mark.parametrize("name", ["early_fusion__vit_6_4_32", "img_riem_vit_6_4_32"])
def test_fusions_know_their_revisions(name):
    with pytest.raises(ValueError, match="revision is 'f3'; it must be one of f1, f2"):
        registry.backbone(name, revision="f3")


def test_first_values():
    model = registry.backbone("manifold_vit_2_4_32")
    layer = model.transformer.blocks[0].self_attn
    assert all(getattr(layer, name).item() == pytest.approx(64**-0.5) for name in layer.stack)
    assert (layer.conv_attn[0].weight == 1).all() and (layer.conv_attn[0].bias == 0).all()
    assert (layer.qkv.bias == 0).all() and layer.qkv.weight.std().item() == pytest.approx(
        0.02, rel=0.05
    )
    described = registry.backbone("img_gm_vit_2_4_32").descriptor.proj
    assert (described.bias == 0).all() and described.weight.std().item() == pytest.approx(
        0.02, rel=0.05
    )


def test_norm_free_networks_have_no_tables_of_one_size():
    model = registry.backbone("manifold_cvt_2_4_32", ln_attention=False)
    assert not any(isinstance(module, MapNorm) for module in model.modules())


@pytest.mark.parametrize("arch", ["manifold_cct_2_3x2_32", "manifold_cct_nano"])
def test_cct_on_manifolds_has_no_stochastic_depth_unless_asked(arch):
    model, deep = registry.backbone(arch, 32), registry.backbone(arch, 32, drop_path_rate=0.2)
    assert isinstance(model.transformer.blocks[-1].drop_path, torch.nn.Identity)
    assert deep.transformer.blocks[-1].drop_path.drop_prob == pytest.approx(0.2)


def test_the_class_tokens_attention_sums_to_one():
    model = registry.backbone("manifold_vit_2_4_32").eval()
    for size in (32, 16):
        seen = model.attention(
            torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        )
        assert seen.shape == (2, 2, 1 + (size // 4) ** 2, 1 + (size // 4) ** 2)
        close(seen.sum(-1), torch.ones(seen.shape[:-1]))
    assert not hasattr(
        registry.backbone("manifold_cvt_2_4_32"), "attention"
    )  # it has no class token to look at


def test_channels_of_a_late_fusions_maps_are_its_branches():
    model = registry.backbone("img_riem_vit_2_4_32").eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, maps = model.forward_maps(x)
    tokens, grid = model.tokens(x)
    _, outputs = model.branches["riem"].forward_blocks(tokens["riem"], grid)
    close(maps["blocks.1"][:, 128:].flatten(2).transpose(1, 2), outputs[1][:, 1:])
