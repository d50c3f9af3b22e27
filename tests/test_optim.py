"""engine/optim.py: groups, the cap on gradients, and LARS against its formula."""

import pytest
import torch
from torch import nn

from multicrop.engine import optim
from multicrop.engine.parameter_groups import parameter_groups


def test_matrices_decay_and_vectors_do_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = optim.build_optimizer("adamw", parameter_groups(module))
    optim.set_rates(optimizer, 0.1, 0.2)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[p] for name, p in module.named_parameters()} == {
        "0.weight": 0.2, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)


def test_each_gradient_is_capped_by_itself_and_the_norm_is_that_before():
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    assert optim.clip_per_parameter([small, large], 0).item() == pytest.approx(50.0025, rel=1e-6)
    assert large.grad.norm().item() == 50
    optim.clip_per_parameter([small, large], 2.0)
    assert small.grad.norm().item() == pytest.approx(
        0.5
    ) and large.grad.norm().item() == pytest.approx(2, rel=1e-5)


def test_lars_takes_the_steps_of_its_formula():
    matrix, vector = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = optim.build_optimizer("lars", [{"params": [matrix, vector], "decays": True}])
    optim.set_rates(optimizer, 0.5, 0.1)
    weight, momentum = matrix.detach().clone(), torch.zeros(1, 2)
    for step in range(2):
        matrix.grad, vector.grad = torch.tensor([[0.6, -0.8]]), torch.tensor([2.0])
        change = matrix.grad + 0.1 * weight
        momentum = 0.9 * momentum + change * 1e-3 * weight.norm() / change.norm()
        weight = weight - 0.5 * momentum
        optimizer.step()
        torch.testing.assert_close(matrix.detach(), weight)
        assert vector.item() == pytest.approx(1 - 0.5 * (2.0 if step == 0 else 2.0 + 3.8))


def test_an_unknown_optimizer_is_one_line():
    with pytest.raises(ValueError, match="'adam' is unknown; known: adamw, sgd, lars"):
        optim.build_optimizer("adam", [])
