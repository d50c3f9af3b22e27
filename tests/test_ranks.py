"""engine/ranks.py on one process."""

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

from multicrop.engine import ranks


def test_alone_every_call_is_the_identity():
    value = torch.tensor([1.0, 2.0])
    assert (
        ranks.world_size() == 1
        and ranks.all_reduce_mean(value) is value
        and ranks.all_reduce_max(value) is value
    )
    assert ranks.gather(value) is value and ranks.broadcast_object(lambda: 3) == 3
    assert ranks.all_true(True) and not ranks.all_true(False)
    assert ranks.wrap(nn.Linear(1, 1), torch.device("cpu")).weight.shape == (1, 1)


@pytest.mark.parametrize("name", ["regnetx_002", "efficientnet_b0"])
def test_synchronised_norms_keep_the_activations(name, monkeypatch):
    """timm's BatchNormAct2d is a batch norm with an activation inside."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    model = timm.create_model(name, num_classes=0)
    before = kinds(model)
    ranks.synchronise_norms(model, torch.device("cpu"))
    assert kinds(model) == before
    after = kinds(ranks.synchronise_norms(model, torch.device("cuda")))
    assert after["activation"] == before["activation"] > 10
    assert (after["synchronised"], after["plain"]) == (before["plain"], 0)


def kinds(model: nn.Module) -> dict[str, int]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    synchronised = sum(isinstance(m, nn.SyncBatchNorm) for m in norms)
    activations = sum(isinstance(m, (nn.ReLU, nn.SiLU)) for m in model.modules())
    return {
        "activation": activations,
        "synchronised": synchronised,
        "plain": len(norms) - synchronised,
    }


def test_an_unknown_device_is_one_line():
    with pytest.raises(ValueError, match="'gpu' is not a device; try auto"):
        ranks.start("gpu")
