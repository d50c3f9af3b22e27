"""Stage two with the other recipes' augmentation, from the flags to the checkpoint and back."""

import numpy as np
import pytest
from conftest import content_of, recipe
from PIL import Image

from multicrop.commands import finetune
from multicrop.config.finetune import Recipe
from multicrop.supervised.augmentation import IMAGENET, TrainTransform
from multicrop.supervised.mixing import Mixing

PUBLISHED = {
    "crop_scale": (0.08, 1.0), "crop_pct": 0.875, "aa_policy": "rand-m9-mstd0.5-inc1", "re_mode": "pixel",
    "re_aspect": "log", "re": 1.0, "alpha": 0.8, "mix_prob": 1.0, "normalise": "imagenet", "ra": 1, "repeats": 3,
    "mixup_off_epoch": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Images of 20 px of two classes: dark ones and bright ones."""
    root, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for level, name in ((0, "dark"), (120, "bright")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(level, level + 120, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02d}.png")
    return root


def run(images, folder, **values) -> dict:
    small = {
        "dataset": "image_folder", "device": "cpu", "image_size": 16, "embed_dim": 16, "num_layers": 1, "num_heads": 2,
        "batch_size": 16, "epochs": 2, "warmup": 0, "lr": 0.01, "val_fraction": 0.0, "source_size": 20,
    }  # fmt: skip
    start = {} if "eval" in values else {"scratch": True}
    settings = small | start | values
    return finetune.run(recipe(Recipe, datapath=str(images), output_dir=str(folder), **settings))


def test_a_run_with_the_published_augmentation(stripes, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    seen, probabilities = [], []
    draw, from_recipe = TrainTransform.draw, Mixing.from_recipe

    def remembered_draw(self, *given):
        seen.append(draw(self, *given))
        return seen[-1]

    def remembered_mixing(settings, epoch=0, copies=1):
        mixing = from_recipe(settings, epoch, copies)
        probabilities.append(mixing.probability)
        return mixing

    monkeypatch.setattr(TrainTransform, "draw", remembered_draw)
    monkeypatch.setattr(Mixing, "from_recipe", remembered_mixing)
    result = run(stripes, tmp_path / "run", **PUBLISHED)
    assert result["status"] == "finished" and result["test_top1"] >= 50
    draws = seen[-1]
    assert draws.shifts is None and (draws.boxes[:, 2] > 0).all() and len(draws.noise) == 16
    assert (
        draws.crops.box[:, :2] + draws.crops.box[:, 2:]
    ).max() > 16  # of the images as stored, 20 px
    assert (
        set(probabilities) == {0.0, 1.0} and probabilities[-1] == 0
    )  # mixed in the first epoch only
    about = content_of(tmp_path / "run" / "checkpoint.pt")["data"]
    assert (tuple(about["mean"]), tuple(about["std"]), about["crop_pct"]) == (*IMAGENET, 0.875)
    again = run(stripes, tmp_path / "run", eval=True)
    assert again["test_top1"] == result["test_top1"] and again["test_loss"] == pytest.approx(
        result["test_loss"]
    )


def test_the_default_is_the_published_two_stage_augmentation(stripes, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    transform = TrainTransform.from_recipe(
        Recipe().augmentation, "cifar10", 32, (0.5,) * 3, (0.2,) * 3
    )
    assert (transform.padding, transform.cut, transform.color_jitter, transform.fill) == (
        4,
        None,
        0.0,
        0.0,
    )
    assert transform.policy.probability.shape == (25, 2) and not transform.erase.log_aspect
    run(stripes, tmp_path / "run", epochs=1, ra=1)
    assert content_of(tmp_path / "run" / "checkpoint.pt")["data"]["crop_pct"] is None
