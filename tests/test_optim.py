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


def test_scaled_by_numbers_on_a_gpu_is_the_same():
    shapes, factors = [(3, 4), (5,), (2, 1, 3), (1,), ()], torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0])
    tensors = [torch.randn(shape) for shape in shapes]
    expected = [tensor * factor for tensor, factor in zip(tensors, factors, strict=True)]
    by_spreading = [tensor.clone() for tensor in tensors]
    optim.spread_scale_(by_spreading, factors)
    optim.scale_each_(tensors, factors)
    for ours, other, right in zip(by_spreading, tensors, expected, strict=True):
        assert ours.equal(right) and other.equal(right)


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


@pytest.mark.parametrize("overflows", [False, True])
def test_lars_skips_an_overflow_of_fp16_and_else_takes_the_same_steps(overflows):
    def moved(scaled: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(6, 5)
        optimizer = optim.LARS([{"params": list(layer.parameters())}], lr=0.5, weight_decay=0.1)
        for step in range(3):
            optimizer.zero_grad()
            layer(torch.randn(3, 6)).pow(2).sum().backward()
            overflow = overflows and step == 1
            if scaled:  # as GradScaler.step hands it over
                layer.weight.grad[0, 0] += torch.nan if overflow else 0
                optimizer.found_inf = torch.tensor(float(overflow))
            if scaled or not overflow:
                optimizer.step()
        return [parameter.detach() for parameter in layer.parameters()]

    for ours, right in zip(moved(True), moved(False), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-6, atol=1e-7)


def test_an_unknown_optimizer_is_one_line():
    with pytest.raises(ValueError, match="'adam' is unknown; known: adamw, sgd, lars"):
        optim.build_optimizer("adam", [])


# Muon


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 12, 30, generator=torch.Generator().manual_seed(0))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(optim.orthogonalise(batch))
        assert values.min() > 0.6 and values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices[0], full_matrices=False)
    turned = optim.orthogonalise(matrices[:1])[0]
    assert (left.T @ turned @ right.T).diagonal().min() > 0.6  # the singular vectors stay


def test_muon_moves_matrices_as_torch_does_and_the_rest_by_adamw():
    """torch's Muon computes in bfloat16, ours in float32."""
    torch.manual_seed(0)
    matrix, vector = torch.randn(16, 24), torch.randn(16)
    ours = [torch.nn.Parameter(value.clone()) for value in (matrix, vector)]
    theirs = [torch.nn.Parameter(value.clone()) for value in (matrix, vector)]
    optimizer = optim.build_optimizer("muon", [{"params": ours, "decays": True}])
    optim.set_rates(optimizer, lr=0.01, weight_decay=0.1)
    muon = torch.optim.Muon(
        theirs[:1], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(theirs[1:], lr=0.01, weight_decay=0.1)
    for step in range(4):
        grads = [torch.randn(16, 24), torch.randn(16)]
        for parameters in (ours, theirs):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.clone()
        for one in (optimizer, muon, adamw):
            one.step()
        moved = (ours[0] - matrix).norm()
        assert (ours[0] - theirs[0]).norm() < 0.02 * moved, step
        assert torch.allclose(ours[1], theirs[1], atol=1e-6)


def test_muon_leaves_tables_and_depthwise_convolutions_to_adamw():
    table, depthwise, convolution = (
        torch.nn.Parameter(torch.randn(shape)) for shape in ((1, 5, 8), (6, 1, 3, 3), (6, 4, 3, 3))
    )
    optimizer = optim.Muon([{"params": [table, depthwise, convolution], "weight_decay": 0.0}], lr=1)
    for parameter in (table, depthwise, convolution):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert "exp_avg" in optimizer.state[table] and "exp_avg" in optimizer.state[depthwise]
    assert "exp_avg" not in optimizer.state[convolution]


def test_muon_goes_on_from_its_state():
    def run(stops: bool) -> torch.Tensor:
        torch.manual_seed(1)
        layer = torch.nn.Linear(6, 5)
        optimizer = optim.Muon([{"params": list(layer.parameters()), "weight_decay": 0.0}], lr=0.1)
        for step in range(4):
            if stops and step == 2:
                state = optimizer.state_dict()
                optimizer = optim.Muon([{"params": list(layer.parameters())}])
                optimizer.load_state_dict(state)
            layer(torch.randn(3, 6)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])

    assert run(stops=True).equal(run(stops=False))


def test_muon_skips_an_overflow_as_a_whole():
    """fp16's scaler must not leave it to AdamW's fused step, which knows nothing of matrices."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 5)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = optim.Muon([{"params": list(layer.parameters()), "weight_decay": 0.0}], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(layer(torch.randn(3, 6)).sum()).backward()
    layer.weight.grad[0, 0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    for parameter, value in zip(layer.parameters(), before, strict=True):
        assert parameter.equal(value)
