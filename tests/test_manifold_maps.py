"""Maps on manifolds, descriptors and norms of maps: recorded numbers, and gradients that stay finite."""

import functools

import pytest
import torch
import torch.nn.functional as F
from test_compact import Recorded, close

from multicrop import registry
from multicrop.models import _descriptor, _manifolds
from multicrop.models._map_norm import MapNorm, spreading
from multicrop.weights import loading


@pytest.fixture
def recorded(request):
    return lambda name: Recorded(name, request)


# Maps.


def test_maps(recorded):
    file = recorded("f1_ops")
    q, k = file["q"], file["k"]
    close(_manifolds.covariance(q), file["cov_q"])
    close(_manifolds.spd(q, k), file["spd_similarity"])
    close(_manifolds.grassmann(q, k), file["grass_similarity"])
    close(_manifolds.covariance_gap(q, k), file["log_dist"])
    close(_manifolds.log_covariance_gap(0.3 * q, 0.3 * k), file["log_dist_log"])
    close(_manifolds.basis(q), file["qr_q_Q"])
    close(_manifolds.basis(file["wide"]), file["qr_wide_Q"])


@pytest.mark.parametrize("shape", [(3, 2, 65, 16), (2, 2, 64, 64), (4, 9, 1), (2, 200, 32)])
def test_the_factorisation_for_gpus_is_lapacks(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for ours, right in zip(_manifolds.householder(x), torch.linalg.qr(x), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=2e-6 * x.shape[-2] ** 0.5)


@pytest.mark.slow
def test_the_factorisation_for_gpus_compiles_to_one_graph():
    x = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(_manifolds.householder, backend="aot_eager", fullgraph=True)
    for ours, right in zip(compiled(x), torch.linalg.qr(x), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-5)
    torch.library.opcheck(_manifolds._reflections, (x,))


def test_the_factorisation_for_gpus_is_the_recorded_one(recorded):
    file = recorded("f1_ops")
    close(_manifolds.householder(file["q"])[0], file["qr_q_Q"])
    wide = file["wide"]
    close(_manifolds.householder(wide[..., : wide.shape[-2]])[0], file["qr_wide_Q"])


@pytest.mark.parametrize("kind", ["zeros", "ones", "equal", "repeated"])
def test_the_factorisation_for_gpus_of_dependent_columns_is_orthonormal(kind):
    q, r = _manifolds.householder(dependent(kind))
    torch.testing.assert_close(q.mT @ q, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(q @ r, dependent(kind), rtol=0, atol=1e-5)


def test_maps_of_one_feature_and_of_uncommon_covariances_are_finite():
    x = torch.linspace(-3, 3, 10).view(1, 1, 10, 1)
    assert torch.equal(_manifolds.spd(x, x), torch.zeros(1, 1, 10, 10))
    far = (
        torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]) * 3
    )  # a covariance of -18: log(1 - 18) does not exist
    assert _manifolds.log_covariance_gap(far, torch.zeros_like(far)).isfinite().all()


def test_the_sign_free_map_does_not_depend_on_signs():
    q, k = torch.randn(2, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    flipped = q * torch.tensor([1.0, -1.0, -1.0, 1.0])
    close(_manifolds.projection(flipped, k), _manifolds.projection(q, k))


@pytest.mark.parametrize("shape", [(2, 7, 4), (2, 4, 7), (2, 5, 5)])
def test_gradient_of_a_basis(shape):
    x = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(_manifolds.basis, x)


def dependent(kind: str) -> torch.Tensor:
    """Matrices (2, 6, 4) whose columns depend on each other."""
    random = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    return {
        "zeros": torch.zeros(2, 6, 4),
        "ones": torch.ones(2, 6, 4),
        "equal": random[..., :1].expand(2, 6, 4).clone(),
        "repeated": random[..., [0, 1, 0, 1]],
    }[kind]


@pytest.mark.parametrize("kind", ["zeros", "ones", "equal", "repeated"])
def test_gradient_of_a_basis_of_dependent_columns_is_small(kind):
    x = dependent(kind).requires_grad_()
    weight = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    (_manifolds.basis(x).square() * weight).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() < 100


# Descriptors.


@pytest.mark.parametrize(("name", "order", "terms"), [("f1_lds_l4m4", 4, 4), ("f1_lds_l8m3", 8, 3)])
def test_descriptors_but_for_signs(recorded, name, order, terms):
    file = recorded(name)
    descriptors = _descriptor.describe(file["input"], order, terms)
    tolerance = 2e-5 * max(1.0, file["Om"].abs().max().item())
    torch.testing.assert_close(descriptors.abs(), file["Om"].abs(), rtol=0, atol=tolerance)
    states = file["svd_S"][..., None] * file["svd_Vh"][..., :order, :]
    torch.testing.assert_close(_descriptor.transition(states), file["A"], rtol=0, atol=tolerance)


def test_descriptors_with_the_signs_that_were_recorded(recorded):
    """C and A follow from each other's signs: with the recorded ones all blocks agree."""
    file = recorded("f1_lds_l4m4")
    ours = _descriptor.describe(file["input"], 4, 4).unflatten(-1, (4, 4, 4))
    theirs = file["Om"].unflatten(-1, (4, 4, 4))  # rows, blocks, columns
    signs = (ours[..., 0, :] * theirs[..., 0, :]).sum(-2).sign()[..., None, None, :]
    powers = torch.tensor([1, 1, 1, 2])[:, None]
    close(ours * signs**powers, theirs)


def test_signs_of_descriptors_are_ours_and_the_same_in_double_precision():
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    vectors = _descriptor.left_vectors(x.view(50, 4, 8))
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    assert (largest > 0).all()
    exact = _descriptor.describe(x.double(), 4, 4)
    torch.testing.assert_close(_descriptor.describe(x, 4, 4).double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ["grassmanian_vit_2_4_32", "img_gm_vit_2_4_32"])
def test_published_signs_are_the_solvers(arch, monkeypatch):
    x = torch.randn(50, 4, 8, generator=torch.Generator().manual_seed(0))
    solved = torch.linalg.svd(x, full_matrices=False).U
    assert torch.equal(_descriptor.left_vectors(x, published_signs=True), solved)
    assert not torch.equal(_descriptor.left_vectors(x), solved)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    features = []
    for published in (False, True):
        torch.manual_seed(0)
        model = registry.backbone(arch, published_signs=published).eval()
        features.append(model(images))
    assert (features[0] - features[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("order", "terms", "width"), [(4, 4, 32), (8, 3, 96), (4, 4, 16)])
def test_gradient_of_descriptors(order, terms, width):
    x = torch.randn(
        2,
        width,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(1),
        requires_grad=True,
    )
    describe = functools.partial(_descriptor.describe, order=order, terms=terms)
    assert torch.autograd.gradcheck(describe, x, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 32), torch.ones(2, 32), torch.arange(64.0).view(2, 32)]
)
def test_descriptors_of_constant_and_linear_tokens_have_finite_gradients(x):
    x = x.clone().requires_grad_()
    descriptors = _descriptor.describe(x, 4, 4)
    descriptors.square().sum().backward()
    assert descriptors.isfinite().all() and x.grad.isfinite().all()


def test_a_series_needs_as_many_vectors_as_each_is_long():
    with pytest.raises(ValueError, match=r"tokens of width 24 .* length 8"):
        registry.backbone("grassmanian_vit_6_4_32", embed_dim=24, lds_order=8)
    assert registry.backbone("grassmanian_vit_6_4_32", embed_dim=24).descriptor.order == 4


# Norms of maps.


@pytest.mark.parametrize(("channels", "prefix"), [(2, 0), (2, 1), (None, 1)])
def test_a_fresh_norm_is_a_plain_one_on_every_grid(channels, prefix):
    norm = MapNorm(channels, 3, prefix)
    for grid in ((3, 3), (2, 4), (1, 1), (5, 5)):
        tokens = prefix + grid[0] * grid[1]
        x = torch.randn(
            4, channels or 6, tokens, tokens, generator=torch.Generator().manual_seed(0)
        )
        close(norm(x, grid), F.layer_norm(x, x.shape[1:] if channels else x.shape[-1:]))


def test_tables_are_resampled_along_rows_and_columns_of_queries_and_keys():
    norm = MapNorm(1, 4, 1)
    line = torch.arange(4.0)
    place = torch.cat(
        [torch.tensor([9.0]), (10 * line[:, None] + line).flatten()]
    )  # of a token; 9 for the class token
    norm.bias.data = (100 * place[:, None] + place)[None]
    x = torch.zeros(1, 1, 9, 9)
    small_rows, small_columns = torch.tensor([0.5, 2.5]), torch.arange(4.0)  # a grid of 2 x 4
    expected = torch.cat(
        [torch.tensor([9.0]), (10 * small_rows[:, None] + small_columns).flatten()]
    )
    torch.testing.assert_close(norm(x, (2, 4))[0, 0], 100 * expected[:, None] + expected)


def test_rows_of_a_resampling_sum_to_one():
    matrix = spreading((4, 4), (3, 7), 1, torch.zeros(()))
    assert matrix.shape == (22, 17)
    close(matrix.sum(1), torch.ones(22))


@pytest.mark.parametrize(
    "arch", ["manifold_vit_2_4_32", "manifold:riemmanian_vit_2_4_f1", "img_gm_riem_vit_2_4_32"]
)
def test_weights_for_a_smaller_image_give_what_the_larger_network_gives_it(arch):
    """The tables that `adapt` makes are those that local crops meet."""
    large, small = (
        registry.backbone(arch, 32, embed_dim=32).eval(),
        registry.backbone(arch, 16, embed_dim=32).eval(),
    )
    for name, parameter in large.named_parameters():
        if name.endswith(("norm.weight", "norm.bias", "conv_attn.0.weight", "conv_attn.0.bias")):
            torch.nn.init.normal_(parameter, 1.0, 0.3, generator=torch.Generator().manual_seed(0))
    report = loading.load_by_name(
        small, large.state_dict(), registry.architecture(arch).module.adapt
    )
    assert not (report.missing or report.unused or report.misshapen)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small(x), large(x), rtol=1e-4, atol=1e-4)
