"""Pictures of a pretraining run: the crops it sees, its curves, and where its teacher looks.

    multicrop visualise runs/ssl            # writes crops.png, curves.png and attention.png into the run folder

Checkpoint -> images -> crops and attention -> PNG files.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._data import load_options, resolve_source_size
from multicrop.commands._networks import backbone_of
from multicrop.commands._origin import data_origin
from multicrop.config.data import DataSettings
from multicrop.config.flags import from_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.sizes import height_width, shortest
from multicrop.config.visualise import Recipe
from multicrop.engine import seeds
from multicrop.engine.run import read_metrics
from multicrop.pictures.figures import draw_attention, draw_crops, draw_curves
from multicrop.probes.attention import heat_maps
from multicrop.ssl.crops import MultiCrop
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained

CURVES = ("loss", "knn_top1", "feature_rank", "target_entropy")


def run(recipe: Recipe) -> dict:
    file = pretrained.read(recipe.run)
    assert file.path is not None
    if file.metadata.kind != "ssl":
        raise ValueError(
            f"{file.path} is no checkpoint of pretraining: give the folder of a pretraining run"
        )
    folder = Path(recipe.output_dir or file.path.parent)
    images = pick_images(recipe, file)
    draw_run_curves(file.path.parent, folder / "curves.png")
    draw_run_crops(recipe, file, images, folder / "crops.png")
    pictures = ["curves.png", "crops.png"]
    if draw_run_attention(file, images, folder / "attention.png"):
        pictures.append("attention.png")
    return {"status": "finished", "pictures": [str(folder / name) for name in pictures]}


def pick_images(recipe: Recipe, file: Pretrained) -> Tensor:
    """uint8 (images, C, S, S), spread over the split."""
    data = DataSettings(datapath=recipe.datapath)
    origin = data_origin(data, file.metadata)
    data_set = origin.source
    split = recipe.split if data_set.labelled else "train"  # a set without labels has no other
    size = resolve_source_size(
        origin.source_size, shortest(file.metadata.recipe["image_size"]), crops=True
    )
    options = replace(load_options(data, size), conversion=origin.conversion)
    pixels = data_set.load(origin.datapath, split, options).pixels
    count = min(recipe.images, len(pixels))
    return pixels[torch.linspace(0, len(pixels) - 1, count).long()]


def draw_run_curves(run_folder: Path, path: Path) -> None:
    rows = read_metrics(run_folder)
    names = [name for name in CURVES if any(name in row for row in rows)]
    if names:
        draw_curves(rows, path, names)


def draw_run_crops(recipe: Recipe, file: Pretrained, images: Tensor, path: Path) -> None:
    """Views as the networks see them, brought back to colours."""
    data = file.metadata.data
    pretraining = from_flags(Pretraining, file.metadata.recipe)
    multi_crop = MultiCrop.from_recipe(pretraining, data["mean"], data["std"])
    height, width = images.shape[-2:]
    parameters = multi_crop.draw(
        len(images), height, width, seeds.generator(recipe.seed, "crops", 0)
    )
    views = multi_crop(images, parameters)
    mean = torch.tensor(data["mean"]).view(-1, 1, 1)
    std = torch.tensor(data["std"]).view(-1, 1, 1)
    draw_crops(views.globals * std + mean, views.locals * std + mean, path, images)


def draw_run_attention(file: Pretrained, images: Tensor, path: Path) -> bool:
    """The last block's attention of the class token, for backbones that have it (vit)."""
    network: Any = backbone_of(file).eval()
    if not hasattr(network, "attention"):
        return False
    data = file.metadata.data
    sides = height_width(file.metadata.backbone["image_size"])
    transform = EvalTransform(sides, data["mean"], data["std"])
    with torch.no_grad():
        maps = network.attention(transform(images))
    levels = images.float() / 255
    shown = torch.nn.functional.interpolate(levels, sides, mode="bilinear", antialias=True)
    draw_attention(shown, heat_maps(maps, sides), path)
    return True
