"""ResNets against numbers recorded from the locality-guidance code, and against torchvision's."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from locality_guidance import (
    COMMITTED,
    SHARED,
    check_full_size,
    classifier,
    close,
    full_size_images,
    part,
    recorded,
)
from locality_guidance import rule_filled as rule

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.models import resnet
from multicrop.weights import pretrained

FULL = "full_size_deit_t2t_pvt_resnet.npz"


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_guiding_network(shared_golden, tmp_path, mode):
    tensors = recorded(shared_golden / SHARED / "guidance_resnet56.safetensors")
    state = part(tensors, "state/")
    backbone, head = classifier("resnet56", state, tmp_path)
    features, maps = backbone.train(mode == "train").forward_maps(tensors["input"])
    close(head(features), tensors[f"{mode}/logits"])
    for name, theirs in zip(maps, part(tensors, f"{mode}/feature/").values(), strict=True):
        close(maps[name][: len(theirs)], theirs)
    if mode == "train":
        ours = backbone.state_dict()
        for name, theirs in resnet.adapt(part(tensors, "train/after/"), backbone).items():
            close(ours[name], theirs)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_guiding_network_on_reduced_images(tmp_path, mode):
    tensors = part(recorded(COMMITTED / FULL), "resnet56/")
    backbone, head = classifier("resnet56", rule(json.loads(tensors["keys"]), 50_000), tmp_path)
    x = F.interpolate(full_size_images(), (32, 32), mode="bilinear", align_corners=False)
    with torch.no_grad():
        close(head(backbone.train(mode == "train")(x)), tensors[f"logits_{mode}"], 1e-4)


@pytest.mark.slow
def test_published_size(tmp_path):
    check_full_size("resnet18", "resnet18", tmp_path, FULL)


@pytest.mark.parametrize(("arch", "parameters"), [("resnet56", 861_620), ("resnet18", 11_227_812)])
def test_number_of_parameters(arch, parameters):
    with torch.device("meta"):
        model = registry.backbone(arch)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) + (model.dim + 1) * 100
        == parameters
    )


def test_maps_by_name():
    model = registry.backbone("resnet56").eval()
    features, maps = model.forward_maps(images(32))
    assert [tuple(map.shape[1:]) for map in maps.values()] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
    ]
    assert list(maps) == list(model.maps) == list(model.stages) == ["s1", "s2", "s3"]
    close(features, maps["s3"].mean(dim=(2, 3)))
    assert all(map.min() == 0 for map in maps.values())


@pytest.mark.parametrize("depth", [18, 34, pytest.param(50, marks=pytest.mark.slow)])
def test_imagenet_layout_is_torchvisions(depth):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    ours = registry.backbone(f"resnet{depth}").eval()
    report = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert report.missing_keys == [] and report.unexpected_keys == ["fc.weight", "fc.bias"]
    with torch.no_grad():
        close(theirs.fc(ours(images(64))), theirs(images(64)))


def test_depth_of_the_small_layout():
    blocks = [
        module
        for module in registry.backbone("resnet", 16, depth=8).modules()
        if isinstance(module, resnet.BasicBlock)
    ]
    assert len(blocks) == 3
    with pytest.raises(
        ValueError, match=r"depth 18 is not 6n \+ 2 with n at least 1; the nearest are 14 and 20"
    ):
        resnet.build(32, depth=18)
    with pytest.raises(ValueError, match="the nearest are 8 and 14"):
        resnet.build(32, depth=2)
    with pytest.raises(ValueError, match="depth 56 of layout imagenet is not one of 18, 34, 50"):
        resnet.build(32, layout="imagenet")
    with pytest.raises(ValueError, match="layout 'large' is neither"):
        resnet.build(32, layout="large")


def test_initial_values_are_spread_by_the_fan_out():
    model = registry.backbone("resnet56")
    last = model.get_submodule("layer3.8")
    assert abs(last.conv2.weight.std() - (2 / (9 * 64)) ** 0.5) < 1e-3
    assert (last.bn2.weight == 1).all() and (last.bn2.bias == 0).all()


def test_any_size_down_to_one_pixel():
    for arch in ("resnet56", "resnet18"):
        model = registry.backbone(arch).eval()
        for height, width in ((1, 1), (5, 9), (33, 16)):
            assert model(torch.zeros(2, 3, height, width)).shape == (2, model.dim)


# Strides of the bottlenecks


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Torchvision's names as the locality-guidance code has them."""
    layers = {ours: theirs for theirs, ours in resnet.LAYERS.items()}
    named = {}
    for key, value in state.items():
        layer, _, rest = key.partition(".")
        if layer.startswith("layer"):
            block, part, kind = re.fullmatch(r"(\d+)\.(downsample\.\d|\w+)\.(\w+)", rest).groups()
            named[f"s{layer[5:]}.b{int(block) + 1}.{layers[part]}.{kind}"] = value
        else:
            named[f"stem.{layer.rstrip('1')}.{rest}"] = value
    return named


def test_strides_in_the_first_convolutions_as_the_guiding_code_has_them():
    torch.manual_seed(0)
    model = registry.backbone("resnet50_stride_1x1").eval()
    block, x = model.get_submodule("layer2.0"), torch.randn(2, 256, 8, 8)

    def norm(part: str, values: torch.Tensor) -> torch.Tensor:
        return block.get_submodule(part)(values)

    inner = norm("bn1", F.conv2d(x, block.conv1.weight, stride=2)).relu()
    inner = norm("bn2", F.conv2d(inner, block.conv2.weight, padding=1)).relu()
    inner = norm("bn3", F.conv2d(inner, block.conv3.weight))
    shortcut = norm("downsample.1", F.conv2d(x, block.downsample[0].weight, stride=2))
    close(block(x), (inner + shortcut).relu())
    assert [tuple(map.shape[2:]) for map in model.forward_maps(images(64))[1].values()] == [
        (16, 16), (8, 8), (4, 4), (2, 2),
    ]  # fmt: skip


def test_a_file_of_the_guiding_code_is_not_taken_for_torchvisions(tmp_path):
    """Every name and shape fits, and the features would differ."""
    model = registry.backbone("resnet50_stride_1x1")
    names = published_names(model.state_dict())
    adapted = resnet.adapt(names, model)
    assert adapted.keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="take --arch resnet50_stride_1x1"):
        resnet.adapt(names, registry.backbone("resnet50"))
    assert (
        resnet.adapt(names, registry.backbone("resnet50", stride_1x1=False)).keys()
        == adapted.keys()
    )
    torch.save({"model": names}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt: .*take --arch resnet50_stride_1x1"):
        fill_backbone(registry.backbone("resnet50"), pretrained.read(tmp_path / "x.pt"), "resnet50")
    with pytest.raises(ValueError, match="stride_1x1 is for bottlenecks"):
        registry.backbone("resnet18", stride_1x1=True)
