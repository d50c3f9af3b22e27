"""What people see while stage one runs: collapse metrics, warnings in words, the online k-NN and its baselines."""

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._data import ProbeImages
from multicrop.commands._features import own_features
from multicrop.commands._neighbours import rank_classes
from multicrop.config.pretrain import Recipe
from multicrop.engine import ranks
from multicrop.engine.run import Run
from multicrop.probes.collapse import CollapseMonitor, feature_statistics
from multicrop.probes.features import extract_features
from multicrop.probes.knn import top_accuracies
from multicrop.probes.pixels import RawPixels
from multicrop.ssl.objectives._base import BaseObjective

ACCURACIES = ("knn_raw_pixels", "knn_random_weights", "knn_start_weights", "knn_top1")


class Monitor:
    """Follows a run from its log rows; `rows` are those from before it was resumed."""

    def __init__(self, recipe: Recipe, objective: BaseObjective, rows: list[dict]):
        self.objective, self.epochs = objective, recipe.optimisation.epochs
        tenth = self.epochs / 10
        warm = recipe.method.warmup_teacher_temp_epochs
        self.collapse = CollapseMonitor(
            objective.uninformed_loss,
            objective.prototypes,
            early=max(1, min(warm, tenth)),
            warm=warm,
            late=max(warm, recipe.optimisation.warmup_epochs) + max(1, tenth),
        )
        self.collapse.recall(rows)

    def metrics(
        self,
        backbone: nn.Module,
        crops: Tensor,
        statistics: dict[str, float],
        loss: float,
        dtype: torch.dtype | None,
    ) -> dict[str, float]:
        """Collapse metrics of a step: the objective's own, and of the backbone's features of crops (B, C, H, W)."""
        features = extract_features(backbone, crops, lambda x: x, len(crops), crops.device, dtype)
        metrics = {**statistics, **feature_statistics(features)}
        self.collapse.update(loss, metrics)
        return metrics

    def report(self, epochs: float, numbers: dict[str, float]) -> None:
        """A line for people at an epoch's end, and another where the run shows signs of collapse."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        ranks.log(f"epoch {epochs:g}/{self.epochs}: {shown}")
        warning = self.collapse.warning(epochs)
        if warning:
            ranks.log(f"warning: {warning}")


def stored_accuracies(run_folder: Run) -> dict[str, float]:
    """What a resumed run has measured by now, in percent: its baselines, and the last of its teacher."""
    accuracies = {name: run_folder.latest(name) for name in ACCURACIES}
    return {name: value for name, value in accuracies.items() if value is not None}


def online_baselines(
    backbone: nn.Module,
    images: ProbeImages,
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype | None,
    weights: str,
) -> dict[str, float]:
    """k-NN accuracies before the first step, in percent: a run that stays at these has learnt nothing that k-NN sees.

    weights: what the backbone has by then, "random" ones or those that the run "start"s from.
    """
    pixels = RawPixels(images.train.pixels.shape[1], recipe.backbone.image_size)
    return {
        "knn_raw_pixels": online_knn(pixels, images, recipe, device, dtype),
        f"knn_{weights}_weights": online_knn(backbone, images, recipe, device, dtype),
    }


def online_knn(
    backbone: nn.Module,
    images: ProbeImages,
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype | None,
) -> float:
    """k-NN accuracy of the features on the test images, in percent; the ranks share the work."""
    train, test = images.train, images.test
    assert train.labels is not None and test.labels is not None
    transform = EvalTransform(recipe.backbone.image_size, train.mean, train.std)
    every = -(-len(train) // recipe.run.knn_images)
    chosen = torch.arange(0, len(train), every)
    known = own_features(backbone, train, chosen, transform, device, dtype)
    asked = own_features(backbone, test, torch.arange(len(test)), transform, device, dtype)
    # A k fewer than 20 where there are fewer images
    ((k, places),) = rank_classes(known, asked, train, test, k=(20,)).places.items()
    top1, _ = top_accuracies(places, k, len(train.classes))
    return top1
