"""ssl/objectives/simclr.py: the loss against a double loop, what it refuses, and a run."""

import math

import pytest
import torch
from conftest import recipe, rows_of

from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.ssl.contrast import contrast, similarities
from multicrop.ssl.objectives.simclr import Objective

SMALL = {
    "objective": "simclr",
    "local_crops_number": 0,
    "batch_size_per_gpu": 8,
    "out_dim": 16,
    "image_size": 16,
}


def test_the_loss_is_the_double_loop():
    """Chen et al. 2020, eq. 1, pair by pair."""
    torch.manual_seed(0)
    student = torch.randn(2, 5, 7, dtype=torch.float64)
    z = torch.nn.functional.normalize(student.flatten(0, 1), dim=1)
    terms = []
    for i in range(10):
        partner = (i + 5) % 10
        others = sum(math.exp(float(z[i] @ z[k]) / 0.2) for k in range(10) if k != i)
        terms.append(-math.log(math.exp(float(z[i] @ z[partner]) / 0.2) / others))
    objective = Objective(dim=3, hidden=4, projection=7, batch=5, temperature=0.2)
    assert objective.loss(student).item() == pytest.approx(sum(terms) / 10, rel=1e-5)
    assert objective.uninformed_loss == pytest.approx(math.log(9))


def test_in_half_precision_products_are_autocasts():
    """As in runs that are there: they go on with the numbers that they had."""
    student = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    objective = Objective(dim=3, hidden=4, projection=7, batch=5, temperature=0.2)
    unit = torch.nn.functional.normalize(student.flatten(0, 1), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        product = unit @ unit.T / 0.2
        assert product.dtype == torch.bfloat16
        similarity, _ = similarities(student, 0.2)
        assert similarity.dtype == torch.bfloat16 and objective.loss(student) != contrast(student)
    product.fill_diagonal_(-torch.inf)
    assert similarity.equal(product)


def test_equal_crops_have_the_loss_of_chance_and_found_partners_none():
    objective = Objective(dim=3, hidden=4, projection=8, batch=4, temperature=0.01)
    assert objective.loss(torch.ones(2, 4, 8)).item() == pytest.approx(objective.uninformed_loss)
    apart = torch.eye(8)[:4].expand(2, 4, 8)
    assert objective.loss(apart).item() < 1e-6
    assert objective.statistics(apart) == {"contrast_top1": 100.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"local_crops_number": 2}, "compares the two global crops: give --local_crops_number 0"),
        ({"batch_size_per_gpu": 1}, "needs other images in the batch: --batch_size_per_gpu 2"),
    ],
)
def test_what_it_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Objective.from_recipe(recipe(Recipe, **{**SMALL, **values}), dim=24)


def test_a_run_learns_without_a_teacher_and_logs_its_own_numbers(colours, tmp_path):
    settings = recipe(
        Recipe, **SMALL, dataset="image_folder", datapath=str(colours), output_dir=str(tmp_path), embed_dim=24,
        num_layers=1, num_heads=2, device="cpu", log_freq=1, max_steps=3, knn_freq=1, warmup_epochs=0,
    )  # fmt: skip
    result = pretrain.run(settings)
    rows = [row for row in rows_of(tmp_path) if "loss" in row]
    assert result["step"] == 3 and len(rows) == 3 and 0 <= result["knn_top1"] <= 100
    for row in rows:
        assert (
            math.isfinite(row["loss"])
            and 0 <= row["contrast_top1"] <= 100
            and row["feature_rank"] >= 1
        )
        assert "teacher_temp" not in row and "target_entropy" not in row
