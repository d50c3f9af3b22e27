"""Backbones against numbers recorded from the published code: features, attention, position tables, names and sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from multicrop import registry
from multicrop.models._positions import resample

GOLDEN = Path(__file__).parent / "golden" / "two_stage_ssl"
SMALL = {
    "vit": {"embed_dim": 48, "num_layers": 3, "num_heads": 4},
    "swin": {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": 2},
    "cait": {"embed_dim": 48, "num_layers": 3, "num_heads": 4, "truncate_positions": True},
}
SIDES = [("vit", side) for side in (32, 16, 24, 20, 40)]
SIDES += [("swin", side) for side in (32, 16, 24, 20)] + [("cait", side) for side in (32, 16, 24)]
PARAMETERS = {
    ("vit", 32): 2_695_680,
    ("vit", 64): 2_723_328,
    ("swin", 32): 7_044_762,
    ("swin", 64): 7_048_218,
    ("cait", 32): 8_051_520,
    ("cait", 64): 8_079_168,
}


@pytest.fixture(scope="module")
def golden(recordings):
    return {
        arch: load_file(recordings / "two_stage_ssl" / f"{arch}_small.safetensors")
        for arch in SMALL
    }


def backbone(arch: str, tensors: dict, **options) -> torch.nn.Module:
    """The small network of a fixture with its weights, which must all find their place."""
    model = registry.backbone(arch, 32, **SMALL[arch] | options).eval()
    state = {
        key.removeprefix("param."): value
        for key, value in tensors.items()
        if key.startswith("param.")
    }
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    model.load_state_dict(registry.find("models", arch).adapt(state, model))
    return model


def close(ours: torch.Tensor, recorded: torch.Tensor) -> None:
    torch.testing.assert_close(ours, recorded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])  # another attention kernel
@pytest.mark.parametrize(("arch", "side"), SIDES)
def test_features(golden, arch, side, training):
    model, tensors = backbone(arch, golden[arch]), golden[arch]
    with torch.set_grad_enabled(training):
        features = model(tensors[f"input_{side}"])
    close(features, tensors[f"features_{side}"])
    close(
        F.linear(features, tensors["param.head.weight"], tensors["param.head.bias"]),
        tensors[f"logits_{side}"],
    )


def test_vit_attention_and_intermediate_outputs(golden):
    """At 32 and 16 px, in the full set at every recorded size."""
    model, tensors = backbone("vit", golden["vit"]), golden["vit"]
    sides = {
        name.removeprefix("last_attention_")
        for name in tensors
        if name.startswith("last_attention_")
    }
    assert sides >= {"32", "16"}
    for side in sides:
        close(model.attention(tensors[f"input_{side}"]), tensors[f"last_attention_{side}"])
        for index, output in enumerate(model.intermediate(tensors[f"input_{side}"], 2)):
            close(output, tensors[f"intermediate_{side}_{index}"])


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_published_linear_probe_sees_the_last_blocks_class_tokens(golden, blocks):
    """finetune.py --freeze_backbone sees the features, those of one block; the others are for who wants that probe."""
    recorded = np.load(GOLDEN / "linear_features.npz")
    model, x = backbone("vit", golden["vit"]), golden["vit"]["input_32"]
    outputs = model.intermediate(x, blocks)
    close(
        torch.cat([tokens[:, 0] for tokens in outputs], dim=1),
        torch.from_numpy(recorded[f"n{blocks}_avg0"]),
    )
    if blocks == 1:
        close(model(x), torch.from_numpy(recorded["n1_avg0"]))
        cls, patches = outputs[0][:, 0], outputs[0][:, 1:].mean(1)
        close(
            torch.stack([cls, patches], dim=2).flatten(1), torch.from_numpy(recorded["n1_avg1"])
        )  # interleaved


@pytest.mark.parametrize("side", [32, 16, 24, 20, 40])
def test_vit_positions(golden, side):
    table, recorded = golden["vit"]["param.pos_embed"], golden["vit"][f"pos_embed_{side}"]
    close(resample(table[:, 1:], (side // 4, side // 4)), recorded[:, 1:])


def test_cait_resamples_positions_unless_told_to_truncate(golden):
    published, ours = (
        backbone("cait", golden["cait"]),
        backbone("cait", golden["cait"], truncate_positions=False),
    )
    close(ours(golden["cait"]["input_32"]), golden["cait"]["features_32"])
    assert torch.equal(ours.positions((4, 4)), resample(ours.pos_embed, (4, 4)))
    assert torch.equal(published.positions((4, 4)), published.pos_embed[:, :16])
    with pytest.raises(ValueError, match="100 patches needs more than these 64 positions"):
        published(torch.zeros(1, 3, 40, 40))


@pytest.mark.parametrize(("arch", "image_size"), PARAMETERS)
def test_names_shapes_and_numbers_of_parameters(arch, image_size):
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())[f"{arch}_{image_size}"][
        "entries"
    ]
    with torch.device("meta"):
        published = {
            key.removeprefix("backbone."): torch.empty(shape)
            for key, shape, _ in layout
            if "backbone." in key
        }
    model = registry.backbone(arch, image_size)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[arch, image_size]
    )
    adapted = registry.find("models", arch).adapt(published, model)
    assert {key: value.shape for key, value in adapted.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize("arch", ["vit", "swin", "cait"])
def test_initial_values_are_the_published_ones(arch):
    torch.manual_seed(0)
    for name, tensor in registry.backbone(arch, 32).named_parameters():
        if name.startswith("patch_embed.proj") and arch != "cait":
            assert tensor.std() > 0.05  # PyTorch's own values for a convolution
        elif "gamma" in name:
            assert (tensor == 1e-5).all()
        elif tensor.ndim > 1 and tensor.numel() > 100:
            assert 0.017 < tensor.std() < 0.023, name
        elif "norm" in name or tensor.ndim == 1:
            assert (tensor == float("norm" in name and name.endswith("weight"))).all(), name


def test_stochastic_depth_rates_are_the_published_ones():
    rates = {}
    for arch in SMALL:
        drops = [
            module
            for module in registry.backbone(arch, 32).modules()
            if hasattr(module, "drop_prob")
        ]
        rates[arch] = sorted({round(module.drop_prob, 6) for module in drops} - {0.0})
    assert rates["cait"] == [0.1]
    assert rates["vit"] == [round(0.1 * block / 8, 6) for block in range(1, 9)]
    assert rates["swin"] == [round(0.1 * block / 11, 6) for block in range(1, 12)]
