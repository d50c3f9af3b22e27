"""--label_weight: labels beside the objective of stage one."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import recipe, rows_of, same
from test_batch_terms import settings_of, steps_of

from multicrop.commands import finetune, knn, pretrain
from multicrop.commands._ssl_step import label_loss
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.knn import Recipe as Probe
from multicrop.config.pretrain import Recipe
from multicrop.engine import checkpoint
from multicrop.weights import pretrained


def test_the_loss_is_the_cross_entropy_of_every_global_crop():
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1, 1])
    each = [F.cross_entropy(view, labels) for view in logits]
    torch.testing.assert_close(label_loss(logits, labels), torch.stack(each).mean())


def test_labels_are_learned_beside_the_objective(colours: Path, tmp_path: Path):
    """The other weights and the crops of the first step are those of a run without labels."""
    pretrain.run(settings_of(tmp_path / "without", colours))
    pretrain.run(settings_of(tmp_path / "with", colours, label_weight=1.0))
    without, joint = steps_of(tmp_path / "without"), steps_of(tmp_path / "with")
    assert joint[0]["loss"] == without[0]["loss"] and joint[-1]["loss"] != without[-1]["loss"]
    assert joint[-1]["label_loss"] < joint[0]["label_loss"]
    assert not any("label_loss" in row for row in without)
    weights = [
        checkpoint.load(tmp_path / name / "checkpoint.pt").state["student"]
        for name in ("without", "with")
    ]
    assert weights[1].keys() - weights[0].keys() == {"classifier.weight", "classifier.bias"}


def test_a_run_resumes_bit_equal(colours: Path, tmp_path: Path):
    for name, steps in (("whole", [None]), ("parts", [3, None])):
        for stop in steps:
            settings = settings_of(tmp_path / name, colours, label_weight=0.5, max_steps=stop)
            pretrain.run(settings)
    states = [
        checkpoint.load(tmp_path / name / "checkpoint.pt").state for name in ("whole", "parts")
    ]
    same(*states)
    labels = [
        [row["label_loss"] for row in steps_of(tmp_path / name)] for name in ("whole", "parts")
    ]
    assert labels[0] == labels[1]


def test_its_backbone_goes_on_as_any_other(colours: Path, tmp_path: Path):
    """The classifier of stage one is none of the network's: probes and stage two take the backbone alone."""
    pretrain.run(settings_of(tmp_path / "joint", colours, label_weight=1.0))
    file = pretrained.read(str(tmp_path / "joint"), "teacher", False)
    assert not file.head and not any("classifier" in name for name in file.backbone)
    probed = knn.run(recipe(Probe, checkpoints=(str(tmp_path / "joint"),), device="cpu"))
    assert probed["status"] == "finished"
    tuned = finetune.run(
        recipe(
            Finetuning, pretrained_weights=str(tmp_path / "joint"), dataset="image_folder", datapath=str(colours),
            output_dir=str(tmp_path / "tuned"), epochs=1, batch_size=8, device="cpu",
        )
    )  # fmt: skip
    assert tuned["status"] == "finished" and rows_of(tmp_path / "tuned")


def test_without_labels_it_is_refused(colours: Path, tmp_path: Path):
    words = {
        "dataset": "images",
        "datapath": str(colours / "train"),
        "output_dir": str(tmp_path / "u"),
    }
    with pytest.raises(ValueError, match=r"--label_weight 1 learns labels, and images has none"):
        pretrain.run(recipe(Recipe, **{**words, "label_weight": 1.0, "device": "cpu"}))
    with pytest.raises(ValueError, match="label_weight"):
        recipe(Recipe, label_weight=-1.0)
