"""A standardising network is an object like any other: it can be copied, pickled and saved whole."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from multicrop import registry

FAMILIES = [name for name in registry.names("models") if name != "timm"]
NAMES = [*FAMILIES, "deit_tiny_distilled", "timm:test_resnet", "timm:test_vit"]
SMALL = {"embed_dim": 24, "num_heads": 2, "num_layers": 1}


def network(arch: str, standardise: bool) -> nn.Module:
    takes = inspect.signature(registry.architecture(arch).module.build).parameters
    small = {name: value for name, value in SMALL.items() if name in takes}
    if arch == "deit_tiny_distilled" or arch.startswith("timm:"):
        small = {}
    torch.manual_seed(0)
    return registry.backbone(arch, 32, standardise=standardise, **small).eval()


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("arch", NAMES)
@torch.no_grad()
def test_a_copy_gives_the_same_and_is_its_own(arch):
    model = network(arch, standardise=True)
    x = 3 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 2
    features, (mapped, maps) = model(x), model.forward_maps(x)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved(model)
    for other in copies:
        assert type(other) is type(model)
        assert torch.equal(other(x), features) and torch.equal(other(2 * x - 1), model(2 * x - 1))
        again, other_maps = other.forward_maps(x)
        assert torch.equal(again, mapped) and other_maps.keys() == maps.keys()
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(other.forward_maps(x)[0], mapped)
    assert torch.equal(model(x), features) and torch.equal(model.forward_maps(x)[0], mapped)


@pytest.mark.parametrize("arch", ["vit", "timm:test_resnet"])
@torch.no_grad()
def test_it_sees_standardised_images_by_every_door(arch):
    model, plain = network(arch, standardise=True), network(arch, standardise=False)
    x = 3 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 2
    deviation, mean = torch.std_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
    standardised = (x - mean) / deviation
    assert torch.equal(model(x), plain(standardised))
    assert torch.equal(model.forward_maps(x)[0], plain.forward_maps(standardised)[0])
    assert torch.equal(saved(plain)(x), plain(x))
