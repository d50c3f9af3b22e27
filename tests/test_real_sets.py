"""Four small sets that people have, through check, pretrain, knn, finetune and --eval: signs, steel, cells, digits.

Their look-alikes are drawn here: the same layouts, modes and odd sizes, a few images. The real ones are read from the
folder that the environment variable MULTICROP_SETS names, where their archives are unpacked:
`MULTICROP_SETS=sets pytest -m slow tests/test_real_sets.py`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import content_of, recipe
from PIL import Image

from multicrop.commands import check, finetune, knn, pretrain
from multicrop.config.check import Recipe as Check
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.knn import Recipe as Knn
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets import _console
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source

SETS = "MULTICROP_SETS"
Spread = tuple[int, int, int]  # smallest, median, largest


@dataclass(frozen=True)
class Facts:
    """What is true of a set."""

    dataset: str
    """How check names it."""
    train: int
    test: int
    classes: int
    fewest: int
    """Training images of the smallest class."""
    most: int
    channels: int
    """Of its files."""
    train_size: tuple[Spread, Spread]
    """Widths and heights, in pixels."""
    test_size: tuple[Spread, Spread]
    image_size: int
    """At which it is trained on here."""
    others: int = 0
    """Files that are no images."""
    equal_channels: bool = False
    """Grey stored as RGB."""


def square(side: int) -> tuple[Spread, Spread]:
    return ((side,) * 3, (side,) * 3)


REAL = {
    "gtsrb": Facts(
        "image_folder", 3921, 972, 43, 21, 225, 3, ((25, 37, 123),) * 2, ((25, 43, 258), (25, 43, 229)), 32
    ),
    "neu_det": Facts(
        "image_folder", 810, 198, 6, 135, 135, 3, square(200), square(200), 32, equal_channels=True
    ),
    "malaria50": Facts("image_folder", 3200, 800, 2, 1600, 1600, 1, square(50), square(50), 32),
    "mnist_png": Facts("table", 8000, 2000, 10, 800, 800, 1, square(28), square(28), 28, others=2),
}  # fmt: skip
ALIKE = {
    "gtsrb": Facts("image_folder", 25, 8, 4, 1, 12, 3, ((25, 37, 49), (26, 38, 50)), ((29, 32, 36), (30, 33, 37)), 16),
    "neu_det": Facts("image_folder", 18, 6, 6, 3, 3, 3, square(50), square(50), 16, equal_channels=True),
    "malaria50": Facts("image_folder", 16, 8, 2, 8, 8, 1, square(50), square(50), 16),
    "mnist_png": Facts("table", 20, 10, 10, 2, 2, 1, square(28), square(28), 28, others=2),
}  # fmt: skip


# Look-alikes


def draw(name: str, root: Path) -> None:
    random = np.random.default_rng(0)

    def save(path: Path, width: int, height: int, mode: str, grey: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (height, width, 1 if mode == "L" or grey else 3), np.uint8)
        if mode == "L":
            pixels = pixels[:, :, 0]
        elif grey:
            pixels = pixels.repeat(3, 2)
        Image.fromarray(pixels).save(path, quality=95)

    if name == "gtsrb":  # classes called by numbers, unequal; images of many sizes, not square
        counts = {
            "train": {"0": 12, "1": 8, "10": 1, "2": 4},
            "test": {"0": 2, "1": 2, "10": 2, "2": 2},
        }
        for split, classes in counts.items():
            names = [(label, i) for label, count in classes.items() for i in range(count)]
            for side, (label, i) in enumerate(names, 25 if split == "train" else 29):
                save(root / split / label / f"0000{i}.png", side, side + 1, "RGB")
    if name == "neu_det":  # grey in three channels of JPEG
        for label in (
            "crazing",
            "inclusion",
            "patches",
            "pitted_surface",
            "rolled-in_scale",
            "scratches",
        ):
            for split, count in (("train", 3), ("test", 1)):
                for i in range(count):
                    save(root / split / label / f"{label}_{i}.jpg", 50, 50, "RGB", grey=True)
    if name == "malaria50":
        for label in ("Parasitized", "Uninfected"):
            for split, count in (("train", 8), ("test", 4)):
                for i in range(count):
                    save(root / split / label / f"C{i}thin.png", 50, 50, "L")
    if name == "mnist_png":
        for split, count in (("train", 2), ("test", 1)):
            rows = ["filepath,label"]
            for label in range(10):
                for i in range(count):
                    file = f"{split}/{label}/{label}{i}.png"
                    save(root / file, 28, 28, "L")
                    rows.append(f"{file},{label}")
            (root / f"{split}.csv").write_text("\n".join(rows) + "\n")


# All commands

NETWORK = {"embed_dim": 24, "num_layers": 1, "num_heads": 2}
HEAD = {"out_dim": 16, "head_hidden_dim": 16, "head_bottleneck_dim": 8, "local_crops_number": 2}


def through_all_commands(root: Path, facts: Facts, folder: Path, steps: int) -> None:
    check_all(root, facts)
    data = {"dataset": facts.dataset, "datapath": str(root)}
    images = source(facts.dataset).load(root, "train", LoadOptions(source_size=facts.image_size))
    assert len(images) == facts.train
    if facts.equal_channels:
        pixels = images.pixels[:50].int()
        assert (pixels[:, 0] - pixels[:, 1]).abs().max() <= 1 and pixels.float().std() > 5

    batch = 8 if facts.train < 100 else 64
    shared = {**data, "device": "cpu", "epochs": 1, "max_steps": steps, "log_freq": 1}
    channels = str(facts.channels)
    ssl, ft = folder / "ssl", folder / "ft"
    result = pretrain.run(recipe(
        Pretraining, **shared, **NETWORK, **HEAD, image_size=facts.image_size,
        patch_size=7 if facts.image_size % 8 else 8, batch_size_per_gpu=batch, knn_freq=1, channels=channels,
        output_dir=str(ssl),
    ))  # fmt: skip
    assert result["step"] == min(steps, facts.train // batch)
    stored = content_of(ssl / "checkpoint.pt")
    assert stored["backbone"]["in_channels"] == facts.channels
    assert len(stored["data"]["mean"]) == facts.channels
    assert stored["identity"]["images"] == facts.train

    probed = knn.run(recipe(Knn, checkpoints=(str(ssl),), device="cpu", nb_knn=(1, 5)))
    assert (probed["train_images"], probed["test_images"]) == (facts.train, facts.test)
    assert {row["image_size"] for row in probed["results"]} == {facts.image_size}

    weights = {"pretrained_weights": str(ssl), "output_dir": str(ft)}
    result = finetune.run(recipe(Finetuning, **shared, **weights, batch_size=batch))
    stored = content_of(ft / "checkpoint.pt")
    assert stored["backbone"]["in_channels"] == facts.channels
    assert len(stored["data"]["classes"]) == facts.classes
    assert stored["model"]["head.weight"].shape == (facts.classes, NETWORK["embed_dim"])

    scored = finetune.run(recipe(
        Finetuning, eval=True, pretrained_weights=str(ft), device="cpu", output_dir=str(folder / "scores")
    ))  # fmt: skip
    assert scored["images"] == facts.test
    assert scored["test_top1"] == pytest.approx(result["test_top1"], abs=1e-3)


def check_all(root: Path, facts: Facts) -> None:
    found = check.run(Check(str(root), workers=1))
    assert found["dataset"] == facts.dataset
    for split, count, size in (
        ("train", facts.train, facts.train_size),
        ("test", facts.test, facts.test_size),
    ):
        report = found[split]
        assert (report["images"], report["classes"]) == (count, facts.classes)
        assert (tuple(report["width"]), tuple(report["height"])) == size
        assert report["channels"] == {str(facts.channels): count}
        assert report["bits"] == {"8": count} and report["unreadable"] == 0
    assert (found["train"]["fewest"], found["train"]["most"]) == (facts.fewest, facts.most)
    total = facts.train + facts.test
    files = {"files": total + facts.others, "used": total, "unreadable": 0}
    assert found["files"] == {**files, "left_out": {".csv": facts.others} if facts.others else {}}


@pytest.mark.parametrize("name", ALIKE)
def test_sets_that_look_like_them_go_through_all_commands(tmp_path, name):
    _console.forget()
    draw(name, tmp_path / name)
    through_all_commands(tmp_path / name, ALIKE[name], tmp_path, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_real_sets_go_through_all_commands(tmp_path, monkeypatch, name):
    if not os.environ.get(SETS):
        pytest.skip(f"{SETS} names no folder of unpacked image sets")
    root = Path(os.environ[SETS], name).resolve()
    assert root.is_dir(), f"{SETS} has no {name}"
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    _console.forget()
    through_all_commands(root, REAL[name], tmp_path, steps=8)
