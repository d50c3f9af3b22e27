"""DHVT and its parts against numbers recorded from the published code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import GOLDEN
from torch import Tensor

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.models import dhvt
from multicrop.models._daff import DAFF
from multicrop.models._head_tokens import HeadTokenAttention
from multicrop.models._maps import to_map, to_tokens
from multicrop.models._sope import SOPE, Affine
from multicrop.weights import pretrained

COMMITTED = GOLDEN / "dhvt"
BLOCKS = (
    "sope_p2",
    "sope_p16",
    "sope_p4_smallvar",
    "daff_smallvar",
    "hi_mhsa_smallscale",
    "hi_mhsa_h8_nobias",
)
REST = (
    "sope_p2",
    "sope_p4",
    "sope_p16",
    "daff",
    "hi_mhsa_h4",
    "dhvt_block",
    "dhvt_block_smallscale",
)
MODELS = (
    "model_p4_32_h4",
    "model_p2_32_h4",
    "model_p16_64_h3",
    "model_p16_224_h6",
    "model_p4_32_h8_d3_noqkvbias",
)
COUNTS = {  # with the classifier: its classes and the number of parameters
    "dhvt_tiny_cifar_patch4": (100, 6_008_650),
    "dhvt_small_cifar_patch4": (100, 23_425_450),
    "dhvt_tiny_cifar_patch2": (100, 5_845_162),
    "dhvt_small_cifar_patch2": (100, 22_766_698),
    "dhvt_tiny_domain_patch16": (345, 6_105_975),
    "dhvt_small_domain_patch16": (345, 23_788_431),
    "dhvt_tiny_imagenet_patch16": (1000, 6_267_334),
    "dhvt_small_imagenet_patch16": (1000, 24_040_606),
}


class Recorded:
    """One file of recorded numbers."""

    def __init__(self, path: Path):
        self.file = np.load(path)
        self.about = json.loads(str(self.file["meta"]))
        self.options = self.about["cfg"]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.file[name])

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): self[name]
            for name in self.file.files
            if name.startswith(prefix)
        }


def close(ours: Tensor, recorded: Tensor) -> None:
    """1e-5, and a few roundings of the largest value, which reaches 1e4 where variances are small."""
    largest = recorded.abs().max().item()
    torch.testing.assert_close(ours, recorded, rtol=1e-5, atol=max(1e-5, 1e-6 * largest))


class Stem(SOPE):
    def forward(self, x: Tensor) -> Tensor:
        return to_tokens(super().forward(x))


def block_of(recorded: Recorded) -> tuple[nn.Module, tuple]:
    """The part that a file recorded, and what it takes after its input."""
    options, x = recorded.options, recorded["in/x"]
    grid = (round((x.shape[1] - 1) ** 0.5),) * 2
    match recorded.about["cls"]:
        case "ConvPatchEmbed":
            return Stem(3, options["embed_dim"], options["patch_size"]), ()
        case "DAFF":
            return DAFF(options["in_features"], options["hidden_features"]), (grid,)
        case "HI_Attention":
            return HeadTokenAttention(options["dim"], options["num_heads"], options["qkv_bias"]), ()
        case "DHVT_Block":
            width, hidden = options["dim"], int(options["dim"] * options["mlp_ratio"])
            return dhvt.Block(width, hidden, options["num_heads"], options["qkv_bias"], 0.0, 0.0), (
                grid,
            )


def check_block(path: Path) -> None:
    """Evaluation, then one forward in training and the batch norms' statistics after it."""
    recorded = Recorded(path)
    module, more = block_of(recorded)
    module.load_state_dict(recorded.part("sd/"))
    close(module.eval()(recorded["in/x"], *more), recorded["out/y"])
    if "out/y_train" in recorded.file:
        close(module.train()(recorded["in/x"], *more), recorded["out/y_train"])
        close_statistics(module, recorded)


def close_statistics(module: nn.Module, recorded: Recorded) -> None:
    own, statistics = module.state_dict(), recorded.part("post/")
    assert statistics and all(
        ".running_" in name or name.endswith("tracked") for name in statistics
    )
    for name, value in statistics.items():
        close(own[name], value)


@pytest.mark.parametrize("name", BLOCKS)
def test_parts(name):
    check_block(COMMITTED / f"{name}.npz")


@pytest.mark.parametrize("name", REST)
def test_all_recorded_parts(shared_golden, name):
    check_block(shared_golden / "dhvt" / f"{name}.npz")


class Classified(nn.Module):
    """A recorded network with its weights and its classifier."""

    def __init__(self, recorded: Recorded):
        super().__init__()
        o = recorded.options
        self.body = dhvt.build(
            o["img_size"], patch_size=o["patch_size"], embed_dim=o["embed_dim"], num_layers=o["depth"],
            num_heads=o["num_heads"], vit_mlp_ratio=o["mlp_ratio"], qkv_bias=o["qkv_bias"], drop_path_rate=0.0,
        )  # fmt: skip
        self.head = nn.Linear(o["embed_dim"], o["num_classes"])
        state = recorded.part("sd/")
        self.head.load_state_dict({name: state.pop(f"head.{name}") for name in ("weight", "bias")})
        self.body.load_state_dict(dhvt.adapt(state, self.body))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def check_model(path: Path) -> None:
    """Features and logits at every recorded size but the one that the published code scrambles."""
    recorded = Recorded(path)
    model = Classified(recorded).eval()
    close(model.body(recorded["in/x"]), recorded["out/features"])
    sizes = [name.removeprefix("in/x") for name in recorded.file.files if name.startswith("in/x")]
    for size in sizes:
        if size != "_16x64":
            close(model(recorded[f"in/x{size}"]), recorded[f"out/logits{size}"])


def test_network():
    check_model(COMMITTED / "model_p4_32_h4.npz")


@pytest.mark.parametrize("name", MODELS)
def test_all_recorded_networks(shared_golden, name):
    check_model(shared_golden / "dhvt" / f"{name}.npz")


def test_maps_are_the_recorded_tokens(shared_golden):
    recorded = Recorded(shared_golden / "dhvt" / "model_p4_32_h8_d3_noqkvbias.npz")
    body = Classified(recorded).eval().body
    features, maps = body.forward_maps(recorded["in/x"])
    close(features, recorded["out/features"])
    assert list(maps) == list(body.maps) == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ] and body.stages == ("blocks.2",)
    for index, found in enumerate(maps.values()):
        close(found, to_map(recorded[f"mid/block{index}"], (8, 8), prefix=1))


def test_a_training_step():
    recorded = Recorded(COMMITTED / "train_step_p4.npz")
    model = Classified(recorded).train()
    logits = model(recorded["in/x"])
    close(logits, recorded["out/logits_train"])
    loss = F.cross_entropy(logits, recorded["in/target"])
    close(loss, recorded["out/loss"])
    loss.backward()
    gradients = {
        name.removeprefix("body."): parameter.grad for name, parameter in model.named_parameters()
    }
    expected = recorded.part("grad/")
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        close(gradients[name], value)
    close_statistics(model.body, recorded)


def test_a_published_checkpoint_file_loads(tmp_path):
    recorded = Recorded(COMMITTED / "model_p4_32_h4.npz")
    state = {f"module.{name}": value for name, value in recorded.part("sd/").items()}
    torch.save({"model": state, "optimizer": {}, "epoch": 299}, tmp_path / "checkpoint.pth")
    file = pretrained.read(tmp_path / "checkpoint.pth")
    sizes = {"embed_dim": 48, "num_layers": 2}
    body = registry.backbone("dhvt_tiny_cifar_patch4", image_size=48, **sizes).eval()
    fill_backbone(body, file, "dhvt_tiny_cifar_patch4", strict=True)
    logits = F.linear(body(recorded["in/x"]), file.head["weight"], file.head["bias"])
    close(logits, recorded["out/logits"])


@pytest.mark.parametrize("name", COUNTS)
def test_numbers_of_parameters(name):
    with torch.device("meta"):
        model = registry.backbone(name)
    classes, count = COUNTS[name]
    assert sum(p.numel() for p in model.parameters()) + (model.dim + 1) * classes == count


@pytest.mark.parametrize("name", COUNTS)
def test_names_and_shapes(shared_golden, name):
    layout = json.loads((shared_golden / "dhvt" / "state_dict_shapes.json").read_text())[
        "variants"
    ][name]
    assert registry.architecture(name).options["image_size"] == layout["img_size"]
    with torch.device("meta"):
        own = {
            key: list(value.shape) for key, value in registry.backbone(name).state_dict().items()
        }
    assert len(own) + 2 == layout["n_keys"]
    first = {
        key: shape
        for key, shape in own.items()
        if not key.startswith("blocks.") or key.startswith("blocks.0.")
    }
    assert first == {
        key: shape for key, shape in layout["keys"].items() if not key.startswith("head.")
    }


def small(**options) -> dhvt.DHVT:
    torch.manual_seed(0)
    return dhvt.build(32, **{"embed_dim": 24, "num_layers": 2, "num_heads": 3} | options)


def test_initial_values():
    model = small(embed_dim=96)
    tables = [model.cls_token, *(block.attn.pos_embed for block in model.blocks)]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            tables.append(module.weight)
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):  # PyTorch's own: uniform with variance 1 / (3 * fan in)
            assert module.weight.var().item() == pytest.approx(
                1 / (3 * module.weight[0].numel()), rel=0.1
            )
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
        elif isinstance(module, Affine):
            assert (module.alpha == 1).all() and (module.beta == 0).all()
    assert len(tables) == 3 + 2 * 5
    for table in tables:
        assert 0.016 < table.std() < 0.024 and table.abs().max() < 0.12


def test_stochastic_depth_and_dropout_sit_where_published():
    model = small(num_layers=5, drop_rate=0.3, drop_path_rate=0.1)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx(
        [0, 0.025, 0.05, 0.075, 0.1]
    )
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert dropouts == {f"blocks.{index}.attn.proj_drop": 0.3 for index in range(5)}


def test_a_wide_image_is_not_scrambled():
    """Turning an image by 90 degrees and its 3 x 3 kernels with it must leave the features as they are."""
    model = small().eval()
    x = torch.randn(2, 3, 16, 64, generator=torch.Generator().manual_seed(0))
    features, maps = model.forward_maps(x)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.transpose(2, 3)
    turned, turned_maps = model.forward_maps(x.transpose(2, 3))
    close(turned, features)
    close(turned_maps["blocks.1"].transpose(2, 3), maps["blocks.1"])
    assert maps["blocks.1"].shape == (2, 24, 4, 16)


@pytest.mark.parametrize(("patch", "stages"), [(2, 1), (4, 2), (8, 3), (16, 4)])
def test_stem_halves_and_rounds_up(patch, stages):
    stem = SOPE(1, 32, patch)
    assert stem(torch.zeros(2, 1, 33, 30)).shape == (2, 32, -(-33 // patch), -(-30 // patch))
    convolutions = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [
        32 >> left for left in reversed(range(stages))
    ]


@pytest.mark.parametrize(
    ("image_size", "patch"), [(16, 2), (28, 2), (32, 4), (64, 8), (96, 8), (224, 16)]
)
def test_default_patch(image_size, patch):
    assert dhvt.build(image_size, embed_dim=8, num_heads=2, num_layers=1).patch_size == patch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "patch size 3 does not fit a stem of halvings"),
        ({"num_heads": 5}, "5 heads cannot share embedding width 24"),
        ({"embed_dim": 4, "num_heads": 2}, "embedding width 4 is too small"),
        ({"num_layers": 0}, "number of layers is 0"),
    ],
)
def test_sizes_that_clash_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_wrong_images_are_one_line():
    with pytest.raises(
        ValueError, match=r"takes images \(batch, 1, height, width\), not \(2, 3, 32, 32\)"
    ):
        small(in_channels=1)(torch.zeros(2, 3, 32, 32))


def test_blocks_trace_without_breaks_and_run_in_bfloat16():
    model = small().eval()
    x = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    features = model(x)
    close(torch.compile(model, fullgraph=True, backend="eager")(x), features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), features, atol=0.1, rtol=0.05)
