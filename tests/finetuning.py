"""Small runs of stage two, for the tests of several of its parts."""

from pathlib import Path

from conftest import content_of, recipe

from multicrop.commands import finetune
from multicrop.config.finetune import Recipe

NETWORK = {"embed_dim": 16, "num_layers": 2, "num_heads": 2}
SMALL = {
    **NETWORK,
    "dataset": "image_folder",
    "device": "cpu",
    "batch_size": 12,
    "epochs": 3,
    "ra": 1,
    "log_freq": 1,
}
PLAIN = {"aa": False, "cm": False, "mu": False, "re": 0.0, "sd": 0.0, "padding": 1}


def run(images: Path, folder: Path, **values) -> dict:
    """In this process; the 54 training images of `colours` are 4 steps an epoch."""
    start = {} if {"eval", "pretrained_weights"} & values.keys() else {"scratch": True}
    settings = {**SMALL, **start, **values}
    return finetune.run(recipe(Recipe, datapath=str(images), output_dir=str(folder), **settings))


def words(values: dict) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def networks(folder: Path) -> dict:
    content = content_of(folder / "checkpoint.pt")
    return {name: content[name] for name in ("step", "model", "optimizer", "best")}
