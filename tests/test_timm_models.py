"""Our backbones as timm's users meet them: through timm's public API alone."""

import inspect
import subprocess
import sys

import pytest
import timm
import torch
from conftest import ROOT
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import multicrop.timm_models  # noqa: F401
from multicrop import registry
from multicrop.ssl.encoder import Encoder
from multicrop.ssl.head import Head
from multicrop.supervised.classifier import Classifier

NAMES = [name for name in (*registry.names("models"), *registry.variants()) if name != "timm"]
SMALL = {"img_size": 32, "embed_dim": 24, "num_heads": 2}
VIT = ("multicrop_vit", SMALL | {"num_layers": 3})  # one stage of three blocks
SWIN = ("multicrop_swin", SMALL | {"depths": (2, 1, 1)})  # three stages
BOTH = pytest.mark.parametrize(("name", "small"), [VIT, SWIN], ids=["vit", "swin"])

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def images(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(size))


def test_timm_lists_every_name():
    listed = timm.list_models("multicrop_*")
    assert listed and set(listed) == {f"multicrop_{name}" for name in NAMES}
    assert all(timm.is_model(name) for name in listed)
    assert timm.list_models("multicrop_*", pretrained=True) == []


def test_default_cfg_names_the_published_size():
    for arch in NAMES:
        size = registry.architecture(arch).options.get("image_size", 32)
        cfg = timm.get_pretrained_cfg(f"multicrop_{arch}")
        assert cfg.input_size == (3, size, size) and cfg.architecture == f"multicrop_{arch}"
        heads = ("head", "distill_head") if "distilled" in arch else "head"
        assert len(cfg.mean) == len(cfg.std) == 3 and cfg.classifier == heads


@pytest.mark.slow
def test_registering_builds_nothing_and_warns_of_nothing():
    code = (
        "import torch\n"
        "made = []\n"
        "start = torch.nn.Module.__init__\n"
        "def count(self, *a, **k): made.append(type(self)); start(self, *a, **k)\n"
        "import multicrop.registry; multicrop.registry.variants()\n"  # activations may be instances
        "torch.nn.Module.__init__ = count\n"
        "import multicrop.timm_models, timm\n"
        "assert timm.is_model('multicrop_vit') and not made, made\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], check=True, cwd=ROOT, timeout=120
    )


def test_the_name_of_a_variant_with_timm_options():
    options = {"num_classes": 10, "img_size": 32, "in_chans": 1, "drop_path_rate": 0.1}
    model = timm.create_model("multicrop_dhvt_tiny_cifar_patch4", **options)
    assert (
        model(images(32, channels=1)).shape == (2, 10) == model.eval()(images(16, channels=1)).shape
    )
    assert model.backbone.patch_size == 4 and model.num_classes == 10 and model.in_chans == 1


@BOTH
def test_features_head_and_classifier(name, small):
    model = timm.create_model(name, num_classes=10, **small).eval()
    features = model.forward_features(images())
    assert features.shape == (2, model.num_features) == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features, pre_logits=True), features)
    assert torch.equal(model.forward_head(features), model(images()))
    assert torch.equal(model(images()), model.get_classifier()(features))
    assert model.default_cfg is model.pretrained_cfg
    assert model.default_cfg["classifier"] + ".weight" in model.state_dict()
    assert resolve_model_data_config(model)["input_size"] == (3, 32, 32)
    assert timm.create_model(name, **small).num_classes == 1000


@BOTH
def test_reset_classifier(name, small):
    model = timm.create_model(name, num_classes=10, **small).eval()
    features = model.forward_features(images())
    model.reset_classifier(0)
    assert torch.equal(model(images()), features) and model.num_classes == 0
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7) and model.num_classes == 7
    assert abs(model.get_classifier().weight.std().item() - 0.02) < 0.005
    assert torch.equal(
        timm.create_model(name, num_classes=0, **small).get_classifier()(features), features
    )


@BOTH
def test_features_only(name, small):
    model = timm.create_model(name, features_only=True, **small).eval()
    assert model.feature_info.channels() == ([24] * 3 if "vit" in name else [24, 48, 96])
    assert model.feature_info.reduction() == ([4] * 3 if "vit" in name else [2, 4, 8])
    maps = model(images())
    for found, width, stride in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert found.shape == (2, width, 32 // stride, 32 // stride)
    chosen = timm.create_model(name, features_only=True, out_indices=(0, -1), **small).eval()
    chosen.load_state_dict(model.state_dict())
    assert all(map(torch.equal, chosen(images()), (maps[0], maps[-1])))
    assert chosen.feature_info.module_name() == [
        model.feature_info.module_name()[i] for i in (0, -1)
    ]
    assert not any("head" in key for key in chosen.state_dict())


@BOTH
def test_forward_intermediates(name, small):
    model = timm.create_model(name, num_classes=10, **small).eval()
    features, maps = model.forward_intermediates(images())
    torch.testing.assert_close(features, model.forward_features(images()))
    assert len(maps) == len(model.feature_info) == 3
    (last,) = model.forward_intermediates(images(), indices=1, intermediates_only=True)
    assert torch.equal(last, maps[-1])
    _, all_maps = model.backbone.forward_maps(images())
    names = [info["module"].removeprefix("backbone.") for info in model.feature_info]
    assert all(torch.equal(found, all_maps[name]) for name, found in zip(names, maps, strict=True))


def test_what_timm_offers_and_we_do_not_is_refused_in_one_line():
    model = timm.create_model(VIT[0], **VIT[1])
    with pytest.raises(ValueError, match="no map 5: this backbone has 3"):
        model.forward_intermediates(images(), indices=[5])
    with pytest.raises(ValueError, match="leave norm and output_fmt out"):
        model.forward_intermediates(images(), norm=True)
    with pytest.raises(ValueError, match="multicrop_vit has no gradient checkpointing"):
        model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="global_pool 'avg': the pooling is part of"):
        model.reset_classifier(5, "avg")
    with pytest.raises(ValueError, match="global_pool 'avg'"):
        timm.create_model(VIT[0], global_pool="avg")
    with pytest.raises(ValueError, match="takes square images, and --image_size is 32 x 64"):
        timm.create_model("multicrop_swin", img_size=(32, 64))
    with pytest.raises(ValueError, match="--arch vit has no option 'depths'"):
        timm.create_model(VIT[0], depths=(2, 2))
    with pytest.raises(RuntimeError, match="No pretrained weights exist for multicrop_dhvt"):
        timm.create_model("multicrop_dhvt", pretrained=True)
    model.set_grad_checkpointing(False)


def test_drop_rate_acts_on_the_classifiers_input_and_proj_drop_rate_in_the_backbone():
    x, quiet = images(), {"num_classes": 10, "drop_path_rate": 0.0}
    model = timm.create_model(VIT[0], drop_rate=0.5, **quiet, **VIT[1]).train()
    assert torch.equal(model.forward_features(x), model.forward_features(x))
    assert not torch.equal(model(x), model(x))
    model = timm.create_model(VIT[0], proj_drop_rate=0.5, **quiet, **VIT[1]).train()
    assert not torch.equal(model.forward_features(x), model.forward_features(x))


@BOTH
def test_a_gradient_step_with_timms_optimizers(name, small):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_path_rate=0.0, **small)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_layer_decay_groups_and_what_is_not_decayed():
    model = timm.create_model(VIT[0], num_classes=3, **VIT[1])
    groups = param_groups_layer_decay(
        model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    rates = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert (
        rates[id(model.head.weight)]["lr_scale"] > rates[id(model.backbone.cls_token)]["lr_scale"]
    )
    assert (
        rates[id(model.backbone.pos_embed)]["weight_decay"]
        == 0
        < rates[id(model.head.weight)]["weight_decay"]
    )


def create(path=None, **more) -> torch.nn.Module:
    return timm.create_model(VIT[0], checkpoint_path=path, num_classes=10, **VIT[1], **more).eval()


def test_checkpoint_path_takes_our_own_state_dict_and_a_checkpoint_of_finetune(tmp_path):
    model = create()
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    assert torch.equal(create(tmp_path / "plain.pt")(images()), model(images()))

    options = {key: value for key, value in VIT[1].items() if key != "img_size"}
    trained = Classifier(registry.backbone("vit", 32, **options), 10).eval()
    torch.save({"kind": "finetune", "model": trained.state_dict()}, tmp_path / "checkpoint.pt")
    assert torch.equal(create(tmp_path / "checkpoint.pt")(images()), trained(images()))


def overlay(path, **more) -> dict:
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path), **more}}


def test_pretrained_file_of_stage_one_leaves_the_classifier_as_initialised(tmp_path):
    options = {key: value for key, value in VIT[1].items() if key != "img_size"}
    teacher = Encoder(
        registry.backbone("vit", 32, **options), Head(24, 16, hidden=8, bottleneck=4)
    ).eval()
    student = {name: torch.zeros_like(value) for name, value in teacher.state_dict().items()}
    torch.save(
        {"kind": "ssl", "step": 3, "student": student, "teacher": teacher.state_dict()},
        tmp_path / "ssl.pt",
    )
    model = create(**overlay(tmp_path / "ssl.pt", num_classes=10))
    assert torch.equal(model.forward_features(images()), teacher.backbone(images()))
    assert torch.equal(model.head.bias, torch.zeros(10)) and model.head.weight.std() > 0


def test_pretrained_file_of_the_published_names_and_another_image_size(tmp_path):
    """The reference's CaiT has a Linear patch embedding under another name; position tables are resampled."""
    small = {"num_layers": 2, "patch_size": 4, "embed_dim": 24, "num_heads": 2}
    source = timm.create_model("multicrop_cait", num_classes=10, img_size=48, **small).eval()
    state = {key.removeprefix("backbone."): value for key, value in source.state_dict().items()}
    weight = state.pop("patch_embed.proj.weight")
    state["patch_embed.1.weight"] = weight.permute(0, 2, 3, 1).flatten(1)
    state["patch_embed.1.bias"] = state.pop("patch_embed.proj.bias")
    torch.save(state, tmp_path / "published.pth")
    load = overlay(tmp_path / "published.pth", num_classes=10)
    model = timm.create_model("multicrop_cait", num_classes=10, img_size=48, **load, **small).eval()
    torch.testing.assert_close(model(images(48)), source(images(48)))
    model = timm.create_model("multicrop_cait", num_classes=10, img_size=32, **load, **small).eval()
    torch.testing.assert_close(model(images(32)), source(images(32)), rtol=1e-4, atol=1e-5)
    features = timm.create_model(
        "multicrop_cait", features_only=True, img_size=48, **load, **small
    ).eval()
    assert torch.equal(features(images(48))[-1], source.forward_intermediates(images(48))[1][-1])


@pytest.mark.parametrize("arch", NAMES)
def test_every_name_can_be_created_and_run(arch):
    """Made small by the backbone's own options."""
    small = {"embed_dim": 24, "num_heads": 2, "num_layers": 1}
    takes = inspect.signature(registry.architecture(arch).module.build).parameters
    small = {name: value for name, value in small.items() if name in takes}
    model = timm.create_model(f"multicrop_{arch}", num_classes=3, img_size=32, **small).eval()
    with torch.no_grad():
        features, maps = model.forward_intermediates(images(32))
        torch.testing.assert_close(
            model.forward_head(features), model(images(32)), rtol=1e-4, atol=1e-4
        )
    assert [found.shape[1] for found in maps] == [info["num_chs"] for info in model.feature_info]
