"""A small network in a checkpoint, and its features by hand, for the tests of the probes that are commands."""

from pathlib import Path

import numpy as np
import torch
from conftest import save_content
from PIL import Image

from multicrop.augment.evaluation import EvalTransform
from multicrop.datasets import image_folder
from multicrop.datasets._images import LoadOptions
from multicrop.engine import seeds
from multicrop.probes.features import extract_features
from multicrop.registry import backbone

OPTIONS = {
    "arch": "vit", "image_size": 16, "patch_size": 4, "embed_dim": 16, "num_layers": 3, "num_heads": 2,
    "in_channels": 3, "drop_path_rate": 0.0,
}  # fmt: skip
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def faint_images(root: Path) -> Path:
    """20 + 8 images of 16 px of each of three classes, which differ by a little more of one colour in much noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for channel, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 200, (16, 16, 3), dtype=np.uint8)
                pixels[:, :, 2 - channel] += 8
                Image.fromarray(pixels).save(root / split / name / f"{i:02d}.png")
    return root


def network(seed: int = 3, **changes) -> torch.nn.Module:
    seeds.reseed(seed, "weights")
    return backbone(**OPTIONS | changes)


def save(path: Path, images: Path, seed: int = 3, **content) -> Path:
    """A checkpoint of stage one on class folders; the weights are those of `network`."""
    weights = {f"backbone.{name}": value for name, value in network(seed).state_dict().items()}
    data = {
        "dataset": "image_folder",
        "classes": ["blue", "green", "red"],
        "mean": MEAN,
        "std": STD,
    }
    recipe = {"seed": 7, "datapath": str(images), "source_size": 16}
    about = {
        "kind": "ssl",
        "backbone": OPTIONS,
        "data": data,
        "recipe": recipe,
        "step": 2,
        "epoch": 1.0,
    }
    save_content({**about, "teacher": weights, "student": weights, **content}, path)
    return path


def bank_of(module: torch.nn.Module, images: Path) -> dict[str, torch.Tensor]:
    """Features and labels of both splits, as the checkpoint says that images are seen."""
    bank = {}
    for split in ("train", "test"):
        loaded = image_folder.load(str(images), split, LoadOptions(source_size=16))
        transform = EvalTransform(16, tuple(MEAN), tuple(STD))
        bank[f"{split}_features"] = extract_features(module, loaded.pixels, transform)
        bank[f"{split}_labels"] = loaded.labels
    return bank
