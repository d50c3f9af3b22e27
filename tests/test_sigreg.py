"""ssl/objectives/sigreg.py: the statistic against its integral, what the parts measure, and a run."""

import math

import pytest
import torch
from conftest import recipe, rows_of
from scipy.integrate import quad

from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.ssl.objectives.sigreg import Objective, disagreement

SMALL = {
    "objective": "sigreg",
    "local_crops_number": 2,
    "batch_size_per_gpu": 8,
    "out_dim": 16,
    "image_size": 16,
}


def objective(batch=5, projection=1, share=0.05):
    return Objective(dim=3, hidden=4, projection=projection, batch=batch, share=share)


def test_the_statistic_is_the_integral():
    """Epps and Pulley 1983 on projections of one dimension, where every direction is that line or its reverse."""
    values = [0.3, -1.2, 0.7, 2.0, -0.4]

    def squared(t):
        real = sum(math.cos(t * value) for value in values) / len(values)
        imaginary = sum(math.sin(t * value) for value in values) / len(values)
        normal = math.exp(-(t**2) / 2)
        return ((real - normal) ** 2 + imaginary**2) * normal

    exact = len(values) * quad(squared, -3, 3)[0]
    found = objective().distance(torch.tensor(values).view(1, 5, 1)).item()
    assert found == pytest.approx(exact, rel=1e-2)  # 17 knots


def test_normal_projections_are_near_and_others_far():
    torch.manual_seed(0)
    near = torch.randn(1, 2000, 4)
    distance = objective(2000, 4).distance
    line = near[..., :1]
    assert distance(line) < 0.02 * distance(line.sign())
    assert distance(near) < 0.02 * distance(3 * near)
    assert distance(near) < 0.02 * distance(near[..., :1].expand(-1, -1, 4))


def test_views_that_agree_and_projections_that_collapse():
    torch.manual_seed(0)
    alike = torch.randn(1, 6, 8).expand(4, 6, 8)
    assert disagreement(alike) == pytest.approx(0, abs=1e-12)
    # Global crops at +1 and -1 have the centre 0, local ones are 2 from it: (1 + 1 + 4 + 4) / 4.
    views = torch.tensor([1.0, -1.0, 2.0, 2.0]).view(4, 1, 1).expand(4, 6, 8)
    assert disagreement(views).item() == pytest.approx(2.5)
    assert objective(6, 8).loss(torch.zeros(4, 6, 8)).item() == pytest.approx(
        objective(6, 8).uninformed_loss
    )


def test_the_share_weighs_the_parts():
    views = torch.tensor([1.0, -1.0]).view(2, 1, 1).expand(2, 5, 1)
    only_agreement, only_distribution = objective(share=0.0), objective(share=1.0)
    assert only_agreement.loss(views).item() == pytest.approx(1.0)
    assert only_distribution.loss(views).item() == pytest.approx(
        only_distribution.distance(views).item()
    )


def test_a_batch_of_one_is_refused():
    settings = recipe(Recipe, **SMALL | {"batch_size_per_gpu": 1})
    with pytest.raises(ValueError, match="a batch: --batch_size_per_gpu 2 or more"):
        Objective.from_recipe(settings, dim=24)


def test_a_run_learns_and_resumes_bit_equal(colours, tmp_path):
    def run(folder, **more):
        settings = recipe(
            Recipe, **SMALL, dataset="image_folder", datapath=str(colours), output_dir=str(tmp_path / folder),
            embed_dim=24, num_layers=1, num_heads=2, device="cpu", log_freq=1, knn_freq=0, warmup_epochs=0, epochs=2,
            **more,
        )  # fmt: skip
        return pretrain.run(settings)

    run("whole")
    run("parts", max_steps=2)
    run("parts")
    losses = {
        folder: [row["loss"] for row in rows_of(tmp_path / folder) if "loss" in row]
        for folder in ("whole", "parts")
    }
    assert losses["whole"] == losses["parts"]
    assert all(map(math.isfinite, losses["whole"]))
    row = rows_of(tmp_path / "whole")[-1]
    assert row["disagreement"] >= 0 and row["distance"] >= 0 and "teacher_temp" not in row
