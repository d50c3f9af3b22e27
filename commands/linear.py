"""Linear probe: accuracy of a linear classifier on frozen features, by logistic regression or by SGD as DINO has it.

    multicrop linear runs/ssl                        # features computed once, C chosen on validation images
    multicrop linear runs/ssl --probe sgd            # augmented images, several learning rates at once

Checkpoint -> images in three parts -> features -> classifiers -> the one that the validation images choose -> test
images. Random weights come first, as a baseline. Every flag: config/linear.py. N images, D width, R rates.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import registry
from multicrop.commands._data import eval_transform
from multicrop.commands._linear_parts import Known, Probe, load_parts
from multicrop.commands._linear_sgd import sgd_probe
from multicrop.commands._targets import ProbeTarget, build, image_origin, read_model, targets, when
from multicrop.config.linear import Recipe
from multicrop.engine import ranks
from multicrop.engine.precision import autocast_dtype
from multicrop.engine.progress import Progress
from multicrop.probes import linear
from multicrop.probes.accuracy import scores
from multicrop.probes.linear_features import LinearFeatures, block_count, has_tokens

T = TypeVar("T")


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    logistic = recipe.linear.probe == "logistic"
    if logistic:
        linear.check_installed()  # before images are read
    else:
        ranks.log("--probe sgd keeps nothing on its way: if it is interrupted, it begins again")
    begun = time.perf_counter()

    # The network, and what of it is probed: what is wrong is said before a long decoding.
    file = read_model(recipe.model, recipe.weights)
    probed = list(targets([file], recipe.weights, recipe.backbone, raw_pixels=False))
    features_of(recipe, registry.backbone(**{"in_channels": 3, **probed[-1].backbone}), probed[-1])
    origin, source_size = image_origin(recipe.data, file, probed[-1].backbone["image_size"])

    # Images: those that are fitted, those that choose, and the test images.
    choices = recipe.linear.linear_c if logistic else recipe.sgd.lr
    parts = load_parts(recipe, origin, source_size, choices is None or len(choices) > 1)

    # A classifier on the features of each network, then test images.
    results = []
    for target in probed:
        network = build(target, parts.train.pixels.shape[1])
        features = features_of(recipe, network, target).to(device)
        seen_as = eval_transform(file.metadata, target.backbone["image_size"], parts.train)
        dtype = autocast_dtype(recipe.machine.precision, device)
        probe = Probe(recipe, parts, features, seen_as, device, dtype)
        fit = logistic_probe if logistic else partial(sgd_probe, file=file, dataset=origin.dataset)
        numbers = named(target, partial(fit, probe))
        test_images = numbers.pop("test_images")
        results.append(result_of(target, features, numbers))
    show(results, f"{origin.dataset}: {test_images} test images")
    return {
        "status": "finished",
        "probe": recipe.linear.probe,
        "results": results,
        "train_images": len(parts.chosen),
        "validation_images": parts.validation_images,
        "validation": "own" if parts.own else "held_out" if len(parts.held_out) else None,
        "test_images": test_images,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def features_of(recipe: Recipe, network: nn.Module, target: ProbeTarget) -> LinearFeatures:
    """What of the network is probed. ValueError where it has not the blocks that are asked for."""
    blocks = recipe.linear.blocks
    if recipe.linear.n_last_blocks is None and recipe.linear.probe == "sgd":
        blocks = min(blocks, block_count(network)) if has_tokens(network) else 0
    try:
        return LinearFeatures(network, blocks, recipe.linear.avgpool_patchtokens)
    except ValueError as error:
        flags = ["--n_last_blocks"] if recipe.linear.n_last_blocks else []
        if recipe.linear.avgpool_patchtokens:
            flags.append("--avgpool_patchtokens")
        raise ValueError(f"{' '.join(flags)}, of {target.backbone['arch']}: {error}") from None


# Logistic regression


def logistic_probe(probe: Probe) -> dict[str, Any]:
    """C is chosen on the validation images, and the classifier then fitted on these, too."""
    parts, stated = probe.parts, probe.recipe.linear.linear_c
    # The first process fits, and it alone holds the features.
    train, test = probe.of(parts.train, parts.chosen, to=0), probe.of(parts.test, to=0)
    numbers: dict[str, Any] = {}
    if stated and len(stated) == 1:
        c, fitted = stated[0], train[:2]
    else:
        held_out = torch.isin(train.indices, parts.held_out)
        fits = part_of(train, ~held_out)
        chooses = part_of(train, held_out) if parts.own is None else probe.of(parts.own, to=0)[:2]
        progress = Progress(len(stated) if stated else linear.fits_of_search(), 0, len(fits[1]))
        sweep = on_rank_0(lambda: linear.sweep(fits, chooses, stated or (), progress.step))
        progress.close()
        c = sweep.best
        fitted = train[:2] if parts.own is None else joined(train[:2], chooses)
        say_sweep(sweep)
        top1 = {value: round(accuracy, 4) for value, accuracy in sweep.top1.items()}
        numbers = {"validation_top1": top1[c], "sweep": top1}
    predictions, converged = on_rank_0(lambda: fitted_predictions(fitted, test.features, c))
    if not converged:
        ranks.log(f"{linear.unconverged(c)}: its last state is measured")
    images = {"test_images": len(test.labels)}
    return {"linear_c": c, **numbers, **images, **scores(predictions, test.labels)}


def fitted_predictions(
    fitted: tuple[Tensor, Tensor], features: Tensor, c: float
) -> tuple[Tensor, bool]:
    """Predicted classes (N,) of features (N, D), and whether the fit came to its end."""
    classifier = linear.fit(*fitted, c)
    return classifier.predict(features), classifier.converged


def say_sweep(sweep: linear.Sweep) -> None:
    """Lines about a choice that may not be the best there is."""
    low, high = min(sweep.top1), max(sweep.top1)
    if sweep.at_edge:
        ranks.log(
            f"C {sweep.best:g} is at the edge of what was tried, {low:g} to {high:g}: --linear_c takes values beyond"
        )
    if sweep.unconverged:
        values = ", ".join(f"{c:g}" for c in sweep.unconverged)
        ranks.log(
            f"L-BFGS did not come to its end in {linear.MAX_ITERATIONS} iterations at C {values}"
        )


def part_of(known: Known, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Features, where there are any, and labels of some."""
    features = known.features
    if len(features):
        features = features[mask.to(features.device)]
    return features, known.labels[mask]


def joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


# Numbers


def named(target: ProbeTarget, measure: Callable[[], T]) -> T:
    """What is wrong with a network's features names it."""
    try:
        return measure()
    except ValueError as error:
        raise ValueError(f"{target.name}: {error}") from None


def on_rank_0(work: Callable[[], T]) -> T:
    return ranks.broadcast_object(work)


def result_of(
    target: ProbeTarget, features: LinearFeatures, numbers: dict[str, Any]
) -> dict[str, Any]:
    """A row of the result."""
    arch, size = target.backbone["arch"], target.backbone["image_size"]
    row = {"checkpoint": target.name, "arch": arch, "image_size": size, **when(target)}
    return {**row, "features": features.name, "width": features.dim, **numbers}


def show(results: list[dict[str, Any]], title: str) -> None:
    """The table."""
    setting = "linear_c" if "linear_c" in results[0] else "lr"
    head = {"linear_c": "C", "lr": "--lr"}[setting]
    width = max(len(result["checkpoint"]) for result in results)
    ranks.log(f"accuracy in percent of a linear classifier on {results[0]['features']}, {title}")
    ranks.log(f"{'checkpoint':<{width}}{head:>12}{'top-1':>9}{'balanced':>10}{'macro F1':>10}")
    for row in results:
        numbers = f"{row['top1']:>9.2f}{row['balanced_accuracy']:>10.2f}{row['macro_f1']:>10.2f}"
        ranks.log(f"{row['checkpoint']:<{width}}{row[setting]:>12.4g}{numbers}")
