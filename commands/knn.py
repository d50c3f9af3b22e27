"""Probe: weighted k-NN accuracy of frozen features, of one checkpoint, of many, or of all that a run has kept.

Checkpoints -> images -> backbone -> features of both splits -> votes of the neighbours. Raw pixels and random weights
come first: a number that is no better than theirs says nothing about training. Every flag: config/knn.py.
N images, D width.
"""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from multicrop import cli
from multicrop.commands._data import (
    DataOrigin,
    data_origin,
    eval_transform,
    labelled_images,
    load_options,
    resolve_source_size,
)
from multicrop.commands._features import shared_features
from multicrop.commands._targets import ProbeTarget, build, targets
from multicrop.config.knn import Recipe
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write
from multicrop.engine.precision import autocast_dtype
from multicrop.probes import knn as probe
from multicrop.probes import linear

load = lru_cache(maxsize=1)(labelled_images)  # read once for all checkpoints that share them


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    dtype = autocast_dtype(recipe.machine.precision, device)
    if recipe.probe.linear:
        linear.check_installed()  # before features are computed
    begun = time.perf_counter()
    busy, images, results = 0.0, 0, []
    datasets: set[str] = set()
    for target in targets(recipe):
        # Data: uint8 images of both splits.
        origin = image_origin(recipe, target)
        datasets.add(origin.dataset)
        if len(datasets) > 1:
            names = ", ".join(sorted(datasets))
            raise ValueError(
                f"these checkpoints come from different data sets ({names}): give --dataset"
            )
        assert origin.source_size is not None
        train, test = load(origin, load_options(recipe.data, origin.source_size))
        assert train.labels is not None and test.labels is not None
        chosen = spread(len(train), recipe.data.max_train_images)

        # Features: every rank takes a stretch of the images. Then votes.
        network = build(target, train.pixels.shape[1]).to(device)
        size = target.backbone["image_size"]
        transform = eval_transform(target.file.metadata, size, train)
        start = time.perf_counter()
        settings = transform, device, dtype, recipe.machine.batch_size
        bank = {
            "train_features": shared_features(network, train, chosen, *settings),
            "train_labels": train.labels[chosen],
            "test_features": shared_features(network, test, torch.arange(len(test)), *settings),
            "test_labels": test.labels,
        }
        accuracy = vote(recipe, target, bank, len(train.classes))
        busy += time.perf_counter() - start
        images += len(chosen) + len(test)
        linear_top1 = fit(recipe, target, bank) if recipe.probe.linear else None
        results.append(result_of(target, accuracy, linear_top1))

    title = f"{origin.dataset}: {len(test)} test images among {len(chosen)} training images"
    show(recipe, results, title)
    if recipe.probe.save_features:
        save(bank, Path(recipe.probe.save_features))
    return {
        "status": "finished",
        "results": results,
        "train_images": len(chosen),
        "test_images": len(test),
        "temperature": recipe.probe.temperature,
        "linear_c": recipe.probe.linear_c if recipe.probe.linear else None,
        "features": recipe.probe.save_features,
        "images_per_second": round(images / busy, 1),
        "seconds": round(time.perf_counter() - begun, 1),
    }


# Data


def image_origin(recipe: Recipe, target: ProbeTarget) -> DataOrigin:
    """Data set, its folder and the side at which image files are stored: flags first, then what the checkpoint says."""
    metadata = target.file.metadata
    origin = data_origin(recipe.data, metadata)
    crops = metadata.kind != "finetune"
    size = resolve_source_size(origin.source_size, target.backbone["image_size"], crops=crops)
    return replace(origin, source_size=size)


def spread(images: int, most: int | None) -> Tensor:
    """Indices of at most so many images, spread evenly over the set."""
    count = min(images, most or images)
    return torch.arange(count) * images // count


# Votes


def vote(
    recipe: Recipe, target: ProbeTarget, bank: dict[str, Tensor], classes: int
) -> dict[int, tuple[float, float]]:
    """{k: (top-1, top-5)} in percent."""
    options = recipe.probe

    def accuracy() -> dict[int, tuple[float, float]]:
        return probe.knn(
            **bank,
            k=options.nb_knn,
            temperature=options.temperature,
            classes=classes,
            backend=options.backend,
        )

    try:
        return ranks.broadcast_object(accuracy)
    except ValueError as error:
        raise ValueError(f"{target.name}: {error}") from None


def fit(recipe: Recipe, target: ProbeTarget, bank: dict[str, Tensor]) -> float:
    """Top-1 accuracy in percent of a linear classifier, on every rank."""
    try:
        return ranks.broadcast_object(
            lambda: linear.linear_probe(**bank, c=recipe.probe.linear_c),
        )
    except ValueError as error:
        raise ValueError(f"{target.name}: {error}") from None


def save(bank: dict[str, Tensor], path: Path) -> None:
    """Features and labels of both splits, in the order of the data set."""
    if ranks.rank() != 0:
        return
    bank = {name: value.cpu().contiguous() for name, value in bank.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            if path.suffix == ".pt":
                torch.save(bank, file)
            else:
                file.write(as_safetensors(bank))
    except OSError as error:
        raise OSError(f"cannot write --save_features {path}: {error.strerror or error}") from None


# What people see


def result_of(
    target: ProbeTarget, accuracy: dict[int, tuple[float, float]], linear_top1: float | None
) -> dict:
    """A row of the result."""
    metadata = target.file.metadata
    step: int | None = None
    epoch: float | None = None
    if target.seed is not None:
        step, epoch = 0, 0
    elif metadata.kind and not target.raw_pixels:
        step, epoch = metadata.step, metadata.epoch
    return {
        "checkpoint": target.name,
        "arch": None if target.raw_pixels else target.backbone["arch"],
        "image_size": target.backbone["image_size"],
        "step": step,
        "epoch": epoch,
        "top1": {str(k): round(top1, 4) for k, (top1, _) in accuracy.items()},
        "top5": {str(k): round(top5, 4) for k, (_, top5) in accuracy.items()},
        "linear_top1": None if linear_top1 is None else round(linear_top1, 4),
    }


def show(recipe: Recipe, results: list[dict], title: str) -> None:
    """The table."""
    ks = list(results[0]["top1"])
    width = max(len(result["checkpoint"]) for result in results)
    if len(ks) < len(set(recipe.probe.nb_knn)):
        ranks.log(f"--nb_knn is limited by the number of training images: using {', '.join(ks)}")
    ranks.log(f"top-1 (top-5) accuracy in percent, {title}")
    heads = [f"{f'k={k}':>17}" for k in ks]
    if recipe.probe.linear:
        heads.append(f"{'linear':>10}")
    ranks.log(f"{'checkpoint':<{width}} {'epoch':>7}{''.join(heads)}")
    for result in results:
        cells = [f"{result['top1'][k]:.2f} ({result['top5'][k]:.2f})" for k in ks]
        epoch = "" if result["epoch"] is None else f"{result['epoch']:g}"
        columns = "".join(f"{cell:>17}" for cell in cells)
        if recipe.probe.linear:
            columns += f"{result['linear_top1']:>10.2f}"
        ranks.log(f"{result['checkpoint']:<{width}} {epoch:>7}{columns}")


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
