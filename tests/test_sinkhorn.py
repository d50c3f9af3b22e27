"""Sinkhorn-Knopp targets of ssl/objectives/_targets.py, and a run with them."""

import math

import pytest
import torch
from conftest import recipe, rows_of

from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.ssl.objectives import _targets
from multicrop.ssl.objectives._base import alone
from multicrop.ssl.objectives._targets import sinkhorn
from multicrop.ssl.objectives.dino import Objective


def by_hand(logits: torch.Tensor, iterations: int) -> torch.Tensor:
    """A matrix of samples x prototypes whose columns, then rows, are scaled in turns."""
    table = logits.flatten(0, 1).double().softmax(1)
    samples, prototypes = table.shape
    for _ in range(iterations):
        table = table / table.sum(0) * samples / prototypes
        table = table / table.sum(1, keepdim=True)
    return table.view(logits.shape)


def test_it_is_the_scaling_of_rows_and_columns():
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 6, 5)
    torch.testing.assert_close(
        sinkhorn(logits, alone).double(), by_hand(logits, 3), rtol=1e-5, atol=1e-7
    )


def test_after_many_rounds_all_prototypes_are_used_alike(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(2, 16, 4) + torch.tensor(
        [5.0, 0.0, 0.0, 0.0]
    )  # as sharp towards one as a collapse
    monkeypatch.setattr(_targets, "ITERATIONS", 200)
    targets = sinkhorn(logits, alone)
    torch.testing.assert_close(targets.mean((0, 1)), torch.full((4,), 0.25), rtol=0, atol=1e-3)
    torch.testing.assert_close(targets.sum(-1), torch.ones(2, 16))


def test_large_logits_do_not_overflow():
    targets = sinkhorn(1e4 * torch.randn(2, 8, 6), alone)
    assert targets.isfinite().all()


def test_its_state_does_not_move():
    objective = Objective(8, centering="sinkhorn")
    assert objective.observe(torch.randn(2, 4, 8)) == {}
    objective.update({})
    assert not objective.centre.any()


def test_a_run(colours, tmp_path):
    settings = recipe(
        Recipe, centering="sinkhorn", dataset="image_folder", datapath=str(colours), output_dir=str(tmp_path),
        image_size=16, embed_dim=24, num_layers=1, num_heads=2, out_dim=16, local_crops_number=1, device="cpu",
        batch_size_per_gpu=8, log_freq=1, max_steps=3, knn_freq=0, warmup_epochs=0,
    )  # fmt: skip
    assert pretrain.run(settings)["step"] == 3
    for row in rows_of(tmp_path):
        assert math.isfinite(row["loss"]) and row["mean_entropy"] == pytest.approx(
            math.log(16), abs=0.5
        )
