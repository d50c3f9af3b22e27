import pytest
import torch
from timm.layers import DropPath
from torch import nn

from multicrop.models._depth import residual


def both(drop: nn.Module, rows: int | None = None, batch: int = 16):
    """Our residual and the plain sum, with the gradients of tokens and weights, from the same draws."""
    torch.manual_seed(1)
    tokens, layer = torch.randn(batch, 5, 6), nn.Linear(6, 6)
    weight = torch.randn(batch, 5 if rows is None else rows, 6)

    def branch(x):
        return layer(x).tanh()[:, :rows]

    def run(sum_):
        torch.manual_seed(2)
        x = tokens.clone().requires_grad_()
        y = sum_(x)
        return y, *torch.autograd.grad((y * weight).sum(), (x, *layer.parameters()))

    return run(lambda x: residual(x, branch, drop, rows)), run(
        lambda x: x[:, :rows] + drop(branch(x))
    )


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize(
    "drop", [DropPath(0.5), DropPath(0.2), DropPath(0.4, scale_by_keep=False), nn.Identity()]
)
def test_computing_survivors_only_is_the_same_sum(drop, rows):
    for ours, plain in zip(*both(drop.train(), rows), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_nothing_is_dropped_in_evaluation_and_everything_may_be():
    ours, plain = both(DropPath(0.5).eval())
    assert torch.equal(ours[0], plain[0])
    ours, plain = both(DropPath(0.999).train(), batch=2)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_branch_sees_the_survivors_alone():
    seen = []
    torch.manual_seed(0)
    residual(torch.zeros(100, 2, 3), lambda x: seen.append(len(x)) or x, DropPath(0.5).train())
    assert 30 < seen[0] < 70
