"""What stage one minimises beside its objective by comparing the images of a batch: KoLeo and the contrast."""

import pytest
import torch
from conftest import recipe, rows_of

from multicrop.commands import pretrain
from multicrop.commands._student import build
from multicrop.config.pretrain import Recipe

TERMS = pytest.mark.parametrize("term", ["koleo", "contrast"])


def settings_of(folder, images, **more) -> Recipe:
    return recipe(
        Recipe, dataset="image_folder", datapath=str(images), output_dir=str(folder), image_size=16, embed_dim=24,
        num_layers=1, num_heads=2, out_dim=16, local_crops_number=2, batch_size_per_gpu=8, device="cpu", log_freq=1,
        knn_freq=0, warmup_epochs=0, epochs=2, lr=0.05, freeze_last_layer=0, **more,
    )  # fmt: skip


def steps_of(folder) -> list[dict]:
    return [row for row in rows_of(folder) if "loss" in row]


@TERMS
def test_a_run_reports_the_objective_as_without_it_and_the_term_beside(term, colours, tmp_path):
    pretrain.run(settings_of(tmp_path / "without", colours))
    pretrain.run(settings_of(tmp_path / "with", colours, **{f"{term}_weight": 1.0}))
    without, beside = steps_of(tmp_path / "without"), steps_of(tmp_path / "with")
    # the same weights and crops, before the first step
    assert beside[0]["loss"] == without[0]["loss"]
    assert beside[-1]["loss"] != without[-1]["loss"]
    assert beside[-1][term] < beside[0][term]
    assert not any(term in row for row in without)


@TERMS
def test_a_run_resumes_bit_equal(term, colours, tmp_path):
    weight = {f"{term}_weight": 0.1}
    pretrain.run(settings_of(tmp_path / "whole", colours, **weight))
    pretrain.run(settings_of(tmp_path / "parts", colours, **weight, max_steps=2))
    pretrain.run(settings_of(tmp_path / "parts", colours, **weight))
    values = [[row[term] for row in steps_of(tmp_path / name)] for name in ("whole", "parts")]
    assert values[0] == values[1]


@TERMS
def test_a_negative_weight_and_a_batch_of_one_are_refused(term):
    with pytest.raises(ValueError, match=f"{term}_weight"):
        recipe(Recipe, **{f"{term}_weight": -0.1})
    alone = recipe(Recipe, **{f"{term}_weight": 0.1}, batch_size_per_gpu=1)
    with pytest.raises(ValueError, match=rf"{term}_weight.*batch_size_per_gpu 2"):
        build(alone, 3, torch.device("cpu"))


@TERMS
def test_older_runs_had_none(term):
    assert Recipe.ADDED[f"{term}_weight"] == 0
