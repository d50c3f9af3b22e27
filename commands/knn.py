"""Probe: weighted k-NN accuracy of frozen features, of one checkpoint, of many, or of all that a run has kept.

Checkpoints -> images -> backbone -> features of both splits -> votes of the neighbours. Raw pixels and random weights
come first: a number that is no better than theirs says nothing about training. Every flag: config/knn.py.
N images, D width.
"""

import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from multicrop import cli
from multicrop.commands._data import eval_transform, labelled_images, load_options
from multicrop.commands._features import Stretch, gathered, own_features
from multicrop.commands._neighbours import Ranking, rank_classes
from multicrop.commands._targets import ProbeTarget, build, image_origin, spread, targets, when
from multicrop.config.knn import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write
from multicrop.engine.precision import autocast_dtype
from multicrop.probes import knn as probe
from multicrop.probes import linear
from multicrop.probes.accuracy import balanced_accuracy
from multicrop.registry import source
from multicrop.weights import series
from multicrop.weights.pretrained import Pretrained

load = lru_cache(maxsize=1)(labelled_images)  # read once for all checkpoints that share them


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    dtype = autocast_dtype(recipe.machine.precision, device)
    if recipe.probe.linear:
        linear.check_installed()  # before features are computed
    begun = time.perf_counter()
    busy, images, results = 0.0, 0, []
    datasets: list[str] = []
    for target in targets(read(recipe), recipe.weights, recipe.backbone, recipe.probe.raw_pixels):
        # Data: uint8 images of both splits.
        origin, source_size = image_origin(recipe.data, target.file, target.backbone["image_size"])
        datasets.append(origin.dataset)
        if source(origin.dataset) != source(datasets[0]):
            names = ", ".join(sorted(set(datasets)))
            raise ValueError(
                f"these checkpoints come from different data sets ({names}): give --dataset"
            )
        train, test = load(origin, load_options(recipe.data, source_size))
        assert train.labels is not None and test.labels is not None
        chosen = spread(len(train), recipe.data.max_train_images)

        # Features: every rank computes and keeps a stretch of them. Then votes.
        network = build(target, train.pixels.shape[1]).to(device)
        size = target.backbone["image_size"]
        transform = eval_transform(target.file.metadata, size, train)
        start = time.perf_counter()
        settings = transform, device, dtype, recipe.machine.batch_size
        known = own_features(network, train, chosen, *settings)
        asked = own_features(network, test, torch.arange(len(test)), *settings)
        ranking = ranking_of(recipe, target, known, asked, train, test)
        votes = votes_of(ranking, len(train.classes))
        busy += time.perf_counter() - start
        images += known.total + asked.total

        # Whoever needs all features at once has them on rank 0.
        if recipe.probe.linear or recipe.probe.save_features:
            bank = whole_bank(known, asked, train, test)
        linear_top1 = fit(recipe, target, bank) if recipe.probe.linear else None
        results.append(result_of(target, votes, linear_top1))

    unequal = len(set(ranking.labels.bincount().tolist()) - {0}) > 1
    title = f"{origin.dataset}: {asked.total} test images among {known.total} training images"
    show(recipe, results, title, balanced=unequal)
    if recipe.probe.save_features:
        save(bank, Path(recipe.probe.save_features))
    return {
        "status": "finished",
        "results": results,
        "train_images": known.total,
        "test_images": asked.total,
        "temperature": recipe.probe.temperature,
        "linear_c": recipe.probe.linear_c if recipe.probe.linear else None,
        "features": recipe.probe.save_features,
        "images_per_second": round(images / busy, 1),
        "seconds": round(time.perf_counter() - begun, 1),
    }


# Checkpoints


def read(recipe: Recipe) -> Iterable[Pretrained]:
    """The files that are named; where none is, one that says nothing, for the baselines of --arch."""
    if not recipe.checkpoints:
        return [Pretrained()]
    weights = recipe.weights
    return series.read(recipe.checkpoints, weights.checkpoint_key, weights.trust_checkpoint)


# Votes


class Votes(NamedTuple):
    """Accuracies of one k, in percent."""

    top1: float
    top5: float
    balanced: float  # the mean of the classes' top-1, of those that have test images


def ranking_of(
    recipe: Recipe,
    target: ProbeTarget,
    known: Stretch,
    asked: Stretch,
    train: ImageSet,
    test: ImageSet,
) -> Ranking:
    """The places of the test images' classes for each k. ValueError names the network."""
    options = recipe.probe
    settings = options.nb_knn, options.temperature, options.backend
    try:
        return rank_classes(known, asked, train, test, *settings)
    except ValueError as error:
        raise ValueError(f"{target.name}: {error}") from None


def votes_of(ranking: Ranking, classes: int) -> dict[int, Votes]:
    """The accuracies of each k."""
    votes = {}
    for k, place in ranking.places.items():
        balanced = balanced_accuracy(place < 1, ranking.labels)
        votes[k] = Votes(*probe.top_accuracies(place, k, classes), balanced)
    return votes


# All features in one place


def whole_bank(
    known: Stretch, asked: Stretch, train: ImageSet, test: ImageSet
) -> dict[str, Tensor]:
    """Features and labels of both splits on rank 0, in the order of the data set; on the others empty tensors."""
    bank = {}
    for name, stretch, images in (("train", known, train), ("test", asked, test)):
        assert images.labels is not None
        features = gathered(stretch, to=0)
        bank[f"{name}_features"] = features.values
        bank[f"{name}_labels"] = images.labels[features.indices]
    return bank


def fit(recipe: Recipe, target: ProbeTarget, bank: dict[str, Tensor]) -> float:
    """Top-1 accuracy in percent of a linear classifier, on every rank."""

    def accuracy() -> float:
        c = recipe.probe.linear_c
        classifier = linear.fit(bank["train_features"], bank["train_labels"], c)
        if not classifier.converged:
            ranks.log(f"{target.name}: {linear.unconverged(c)}")
        return classifier.top1(bank["test_features"], bank["test_labels"])

    try:
        return ranks.broadcast_object(accuracy)
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


def result_of(target: ProbeTarget, votes: dict[int, Votes], linear_top1: float | None) -> dict:
    """A row of the result."""
    return {
        "checkpoint": target.name,
        "arch": None if target.raw_pixels else target.backbone["arch"],
        "image_size": target.backbone["image_size"],
        **when(target),
        "top1": {str(k): round(of_k.top1, 4) for k, of_k in votes.items()},
        "top5": {str(k): round(of_k.top5, 4) for k, of_k in votes.items()},
        "balanced_accuracy": {str(k): round(of_k.balanced, 4) for k, of_k in votes.items()},
        "linear_top1": None if linear_top1 is None else round(linear_top1, 4),
    }


def show(recipe: Recipe, results: list[dict], title: str, balanced: bool) -> None:
    """The table; with the balanced accuracies where the classes have unequally many test images."""
    ks = list(results[0]["top1"])
    width = max(len(result["checkpoint"]) for result in results)
    if len(ks) < len(set(recipe.probe.nb_knn)):
        ranks.log(f"--nb_knn is limited by the number of training images: using {', '.join(ks)}")
    kinds = "top-1 (top-5)"
    if balanced:
        kinds += " and balanced"
    ranks.log(f"{kinds} accuracy in percent, {title}")
    heads = [f"{f'k={k}':>17}" for k in ks]
    if balanced:
        heads += [f"{f'balanced {k}':>13}" for k in ks]
    if recipe.probe.linear:
        heads.append(f"{'linear':>10}")
    ranks.log(f"{'checkpoint':<{width}} {'epoch':>7}{''.join(heads)}")
    for result in results:
        cells = [f"{result['top1'][k]:.2f} ({result['top5'][k]:.2f})" for k in ks]
        epoch = "" if result["epoch"] is None else f"{round(result['epoch'], 3):g}"
        columns = "".join(f"{cell:>17}" for cell in cells)
        if balanced:
            columns += "".join(f"{result['balanced_accuracy'][k]:>13.2f}" for k in ks)
        if recipe.probe.linear:
            columns += f"{result['linear_top1']:>10.2f}"
        ranks.log(f"{result['checkpoint']:<{width}} {epoch:>7}{columns}")


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
