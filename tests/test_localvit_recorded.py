"""LocalViT, its four families and their parts against numbers recorded from the published code."""

import argparse
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
from multicrop.models import localvit, localvit_pvt, localvit_swin, localvit_t2t, localvit_tnt, swin
from multicrop.models._locality import ECA, SE, HSwish, LocalityFeedForward
from multicrop.models._maps import to_map, to_tokens
from multicrop.models._pyramid import StageSizes
from multicrop.weights import pretrained

COMMITTED = GOLDEN / "localvit"
PARTS = [
    "se_layer",
    "eca_layer_c32",
    "eca_layer_hsig_c64",
    "attention_qkreduce2",
    "lff_hs_se_smallvar",
    "lff_hs_se_dpfirst_e1",
    "lff_relu6_wo_dp",
    "lff_relu6_eca",
    "localvit_block_smallscale",
    "swin_block_shift",
    "t2t_token_performer",
    "t2t_token_transformer",
]
OTHER_PARTS = [
    "eca_layer_c128",
    "eca_layer_c192",
    "lff_hs",
    "lff_hs_e1",
    "lff_hs_eca",
    "lff_hs_eca_e6",
    "lff_hs_ecah",
    "lff_hs_se",
    "lff_hs_se_r24",
    "lff_hs_se_wo_dp",
    "lff_relu",
    "lff_relu6",
    "lff_relu_se",
    "localvit_block",
]
MODELS = ["localvit_pvt_32", "localvit_tnt_32_p8", "localvit_t2t_64_performer"]
OTHER_MODELS = [
    "localvit_t_act3_r48",
    "localvit_t_act3_r4",
    "localvit_t_mlp6_act1",
    "localvit_t_act2",
    "localvit_t_act4",
    "localvit_t_act5",
    "localvit_s_p16_64",
    "localvit_pvt_64",
    "localvit_tnt_64",
    "localvit_swin_56_w7",
    "localvit_swin_32_w4",
    "localvit_t2t_224",
    "localvit_t2t_64_transformer",
    *MODELS,
]
COUNTS = {  # with a classifier of 1000 classes
    "localvit_tiny_mlp6_act1": 7_655_080,
    "localvit_tiny_mlp4_act3_r192": 5_908_696,
    "localvit_tiny_mlp4_act3_r4": 9_376_168,
    "localvit_small_mlp4_act3_r384": 22_433_176,
    "localvit_pvt_tiny": 13_456_152,
    "localvit_tnt_t_patch16_224": 6_261_064,
    "localvit_tnt_s_patch16_224": 24_137_848,
    "localvit_T2t_conv7": 4_330_858
    - 2 * 2 * 64,  # those that are trained, less the two norms that were not used
    "localvit_swin_tiny_patch4_window7_224": 29_079_010,
}


class Recorded:
    """One file of recorded numbers."""

    def __init__(self, path: Path):
        self.file = np.load(path)
        self.about = json.loads(str(self.file["meta"]))
        self.options = self.about.get("cfg", {})

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.file[name])

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): self[name]
            for name in self.file.files
            if name.startswith(prefix)
        }


def close(ours: Tensor, recorded: Tensor) -> None:
    torch.testing.assert_close(ours, recorded, rtol=1e-5, atol=1e-5)


def close_statistics(module: nn.Module, recorded: Recorded) -> None:
    own, statistics = module.state_dict(), recorded.part("post/")
    assert statistics and all(
        ".running_" in name or name.endswith("tracked") for name in statistics
    )
    for name, value in statistics.items():
        close(own[name], value)


def locality(o: dict) -> LocalityFeedForward:
    depthwise = "none" if o["wo_dp_conv"] else "first" if o["dp_first"] else "second"
    return LocalityFeedForward(o["in_dim"], o["expand_ratio"], o["act"], o["reduction"], depthwise)


def window_block(o: dict) -> tuple[nn.Module, tuple]:
    """A shifted block, and what it takes after its map."""
    parts = {"qkv_bias": True, "drop": 0.0, "act": "hs+se", "locality_drop_path": False}
    block = localvit_swin.Block(
        o["dim"], o["num_heads"], o["window_size"], 0.0, mlp_ratio=o["mlp_ratio"], **parts
    )
    sides, window, shift = o["input_resolution"], o["window_size"], o["shift_size"]
    return block, (shift, swin.shift_mask(*sides, window, shift, torch.device("cpu")))


def part_of(recorded: Recorded) -> tuple[nn.Module, tuple]:
    """The part that a file recorded, and what it takes after its input."""
    o, grid = recorded.options, (4, 4)
    match recorded.about["cls"]:
        case "SELayer":
            return SE(o["channel"], o["reduction"]), ()
        case "ECALayer":
            return ECA(o["channel"], hard=not o["sigmoid"]), ()
        case "LocalityFeedForward":
            return locality(o), ()
        case "Attention":
            return localvit.Attention(
                o["dim"], o["num_heads"], o["qkv_bias"], 0.0, o["qk_reduce"]
            ), ()
        case "Token_performer_local" | "Token_transformer_local" as name:
            attention = localvit_t2t.ATTENTIONS[name.split("_")[1]]
            return localvit_t2t.TokenStage(attention, o["dim"], o["in_dim"]), (grid,)
        case "SwinTransformerBlock":
            return window_block(o)
        case _:
            locality_options = {
                "ratio": o["mlp_ratio"],
                "act": o["act"],
                "reduction": o["reduction"],
            }
            return localvit.Block(
                o["dim"], o["num_heads"], o["qkv_bias"], 0.0, 0.0, **locality_options
            ), (grid,)


def adapted(recorded: Recorded, module: nn.Module) -> dict[str, Tensor]:
    """A part's recorded weights, through the loader of the network that it belongs to."""
    state = recorded.part("sd/")
    if isinstance(module, localvit_t2t.TokenStage):
        state = {f"tokens_to_token.attention2.{key}": value for key, value in state.items()}
        state = localvit_t2t.adapt(state, module)
        return {
            key.removeprefix("tokens_to_token.stages.1."): value for key, value in state.items()
        }
    return localvit_swin.adapt(state, module)


def check_part(path: Path) -> None:
    """Evaluation, then one forward in training and the batch norms' statistics after it."""
    recorded = Recorded(path)
    module, more = part_of(recorded)
    module.load_state_dict(adapted(recorded, module))
    maps = recorded.about["cls"] == "SwinTransformerBlock"  # ours takes (B, h, w, C)

    def run(x: Tensor) -> Tensor:
        return module(x.unflatten(1, (8, 8)), *more).flatten(1, 2) if maps else module(x, *more)

    module.eval()
    close(run(recorded["in/x"]), recorded["out/y"])
    if "out/y_train" in recorded.file:
        module.train()
        close(run(recorded["in/x"]), recorded["out/y_train"])
        close_statistics(module, recorded)


@pytest.mark.parametrize("name", PARTS)
def test_parts(name):
    check_part(COMMITTED / f"{name}.npz")


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_all_recorded_parts(shared_golden, name):
    check_part(shared_golden / "localvit" / f"{name}.npz")


def test_activations():
    recorded = Recorded(COMMITTED / "activations.npz")
    close(HSwish()(recorded["in/x"]), recorded["out/h_swish"])
    close(F.hardsigmoid(recorded["in/x"]), recorded["out/h_sigmoid"])


def body_of(recorded: Recorded) -> nn.Module:
    """The network that a file recorded, without classifier and weights."""
    o = recorded.options
    same = {
        "embed_dim": o.get("embed_dim"),
        "num_layers": o.get("depth"),
        "num_heads": o.get("num_heads"),
    }
    same |= {"vit_mlp_ratio": o.get("mlp_ratio"), "patch_size": o.get("patch_size", 16)}
    match recorded.about["cls"]:
        case "LocalVisionTransformer":
            act = {1: "relu6", 2: "hs", 3: "hs+se", 4: "hs+eca"}.get(o["act"], "hs+ecah")
            return localvit.build(o["img_size"], **same, act=act, reduction=o.get("reduction"))
        case "LocalViT_TNT":
            inner = {"inner_dim": o["in_dim"], "inner_heads": o["in_num_head"]}
            return localvit_tnt.build(o["img_size"], **same, **inner)
        case "LocalViT_T2T":
            tokens = {"token_dim": o["token_dim"], "tokens_type": o["tokens_type"]}
            return localvit_t2t.build(o["img_size"], **same, **tokens)
        case "LocalViT_swin":
            del same["num_layers"]
            same |= {
                "num_heads": o["num_heads"][0],
                "depths": tuple(o["depths"]),
                "window_size": o["window_size"],
            }
            return localvit_swin.build(o["img_size"], **same)
        case "LocalViT_PVT":
            lists = zip(
                o["embed_dims"],
                o["num_heads"],
                o["mlp_ratios"],
                o["sr_ratios"],
                o["depths"],
                strict=True,
            )
            sizes = [StageSizes(*numbers, rates=(0.0,) * depth) for *numbers, depth in lists]
            parts = {"qkv_bias": True, "drop": 0.0, "act": "hs+se", "locality_drop_path": False}
            return localvit_pvt.network(o["img_size"], o["patch_size"], 3, sizes, **parts)


class Classified(nn.Module):
    """A recorded network with its weights and its classifier."""

    def __init__(self, recorded: Recorded):
        super().__init__()
        self.body = body_of(recorded)
        self.head = nn.Linear(self.body.dim, recorded.options["num_classes"])
        state = recorded.part("sd/")
        self.head.load_state_dict({name: state.pop(f"head.{name}") for name in ("weight", "bias")})
        family = type(self.body).__module__.rpartition(".")[2]
        self.body.load_state_dict(registry.find("models", family).adapt(state, self.body))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def check_model(path: Path) -> None:
    """Features and logits, and the maps of those blocks that were recorded."""
    recorded = Recorded(path)
    model = Classified(recorded).eval()
    close(model(recorded["in/x"]), recorded["out/logits"])
    features, maps = model.body.forward_maps(recorded["in/x"])
    close(features, recorded["out/features"])
    for name, tokens in recorded.part("mid/").items():
        if name in maps:
            grid = tuple(maps[name].shape[2:])
            close(maps[name], to_map(tokens, grid, prefix=1))


@pytest.mark.parametrize("name", MODELS)
def test_networks(name):
    check_model(COMMITTED / f"{name}.npz")


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_all_recorded_networks(shared_golden, name):
    check_model(shared_golden / "localvit" / f"{name}.npz")


def test_maps_of_a_pyramid_and_of_windows_are_the_recorded_tokens(shared_golden):
    for size, depths in ((64, (1, 2, 1, 2)), (32, (1, 1, 1, 1))):
        recorded = Recorded(shared_golden / "localvit" / f"localvit_pvt_{size}.npz")
        _, maps = Classified(recorded).eval().body.forward_maps(recorded["in/x"])
        for stage, depth in enumerate(
            depths
        ):  # the last block of each; the last stage has a class token
            tokens = recorded[f"mid/block{stage + 1}.{depth - 1}"][:, int(stage == 3) :]
            close(to_tokens(maps[f"blocks.{sum(depths[: stage + 1]) - 1}"]), tokens)
    recorded = Recorded(shared_golden / "localvit" / "localvit_swin_56_w7.npz")
    _, maps = Classified(recorded).eval().body.forward_maps(recorded["in/x"])
    for index in range(2):
        close(to_tokens(maps[f"blocks.{index}"]), recorded[f"mid/layers.0.blocks.{index}"])


def test_a_training_step():
    recorded = Recorded(COMMITTED / "train_step_localvit.npz")
    model = Classified(recorded).train()
    for module in model.modules():
        assert getattr(module, "drop_prob", 0.0) == 0
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
    recorded = Recorded(COMMITTED / "localvit_tnt_32_p8.npz")
    state = {
        "model": recorded.part("sd/"),
        "optimizer": {},
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3),
    }
    torch.save(state, tmp_path / "checkpoint.pth")
    file = pretrained.read(tmp_path / "checkpoint.pth", trust=True)  # for the Namespace
    sizes = {
        "patch_size": 8,
        "embed_dim": 32,
        "num_layers": 2,
        "num_heads": 4,
        "inner_dim": 8,
        "inner_heads": 4,
    }
    body = registry.backbone("localvit_tnt_t_patch16_224", image_size=32, **sizes).eval()
    fill_backbone(body, file, "localvit_tnt_t_patch16_224", strict=True)
    close(
        F.linear(body(recorded["in/x"]), file.head["weight"], file.head["bias"]),
        recorded["out/logits"],
    )


def full_size(name: str) -> nn.Module:
    with torch.device("meta"):
        return registry.backbone(name)


@pytest.mark.parametrize("name", COUNTS)
def test_numbers_of_parameters(name):
    model = full_size(name)
    assert sum(p.numel() for p in model.parameters()) + (model.dim + 1) * 1000 == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_names_and_shapes(shared_golden, name):
    layout = json.loads((shared_golden / "localvit" / "state_dict_shapes.json").read_text())[
        "variants"
    ][name]
    module, options = registry.architecture(name)
    assert options["image_size"] == layout["img_size"]
    model = full_size(name)
    state = {
        key: torch.empty(shape, device="meta")
        for key, shape in layout["keys"].items()
        if key[:5] != "head."
    }
    assert len(state) + 2 == layout["n_keys"]
    shapes = {key: value.shape for key, value in module.adapt(state, model).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}
