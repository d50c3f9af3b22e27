"""Pictures of a pretraining run: the crops it sees, its curves, and where its teacher looks.

    python visualise.py runs/ssl            # writes crops.png, curves.png and attention.png into the run folder

Checkpoint -> images -> crops and attention -> PNG files.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.visualise import Recipe
from multicrop.datasets._images import LoadOptions
from multicrop.engine import seeds
from multicrop.pictures.figures import draw_attention, draw_crops, draw_curves
from multicrop.probes.attention import heat_maps
from multicrop.registry import backbone, source
from multicrop.ssl.crops import MultiCrop
from multicrop.weights import pretrained


def run(r: Recipe) -> dict:
    file = pretrained.read(r.run)
    if file.about.get("kind") != "ssl":
        raise ValueError(
            f"{file.path} is no checkpoint of train_ssl.py: give the folder of a pretraining run"
        )
    recipe, folder = file.about["recipe"], Path(r.output_dir or file.path.parent)
    images = pick(r, recipe)
    curves(Path(file.path).parent / "metrics.jsonl", folder / "curves.png")
    crops(recipe, images, r.seed, file.about["data"], folder / "crops.png")
    drawn = ["curves.png", "crops.png"]
    if attention(file, images, folder / "attention.png"):
        drawn.append("attention.png")
    return {"status": "finished", "pictures": [str(folder / name) for name in drawn]}


def pick(r: Recipe, recipe: dict) -> Tensor:
    """uint8 (images, C, S, S), spread over the split."""
    data = source(recipe["dataset"])
    stored = recipe["source_size"] or 2 * recipe["image_size"]
    split = r.split if recipe["dataset"] != "images" else "train"  # that set has no other
    pixels = data.load(r.datapath or recipe["datapath"], split, LoadOptions(stored)).pixels
    return pixels[torch.linspace(0, len(pixels) - 1, min(r.images, len(pixels))).long()]


def curves(metrics: Path, path: Path) -> None:
    rows = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    names = ("loss", "knn_top1", "feature_rank", "target_entropy")
    known = [name for name in names if any(name in row for row in rows)]
    if known:
        draw_curves(rows, path, known)


def crops(recipe: dict, images: Tensor, seed: int, data: dict, path: Path) -> None:
    """Views as the networks see them, brought back to colours."""
    options = Pretraining.stored(recipe).crop_options()
    cut = MultiCrop(**options, mean=tuple(data["mean"]), std=tuple(data["std"]))
    views = cut(
        images, cut.draw(len(images), *images.shape[-2:], seeds.generator(seed, "crops", 0))
    )
    mean, std = (torch.tensor(data[name]).view(-1, 1, 1) for name in ("mean", "std"))
    draw_crops(views.globals * std + mean, views.locals * std + mean, path, images)


def attention(file: pretrained.File, images: Tensor, path: Path) -> bool:
    """The last block's attention of the class token, for backbones that have it (vit)."""
    about = file.about
    network = backbone(**about["backbone"]).eval()
    if not hasattr(network, "attention"):
        return False
    pretrained.fill(network, file, about["backbone"]["arch"], whole=True)
    side = about["backbone"]["image_size"]
    transform = EvalTransform(side, about["data"]["mean"], about["data"]["std"])
    with torch.no_grad():
        maps = network.attention(transform(images))
    shown = torch.nn.functional.interpolate(
        images.float() / 255, (side, side), mode="bilinear", antialias=True
    )
    draw_attention(shown, heat_maps(maps, side), path)
    return True
