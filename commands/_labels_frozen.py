"""k-NN and linear probe of `multicrop labels`: frozen features, computed once, and the labels of each draw.

N images, D width.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.commands._data import eval_transform
from multicrop.commands._features import gathered, own_features
from multicrop.commands._labels_rows import PRETRAINED, Job, cells
from multicrop.commands._targets import ProbeTarget, build
from multicrop.config.labels import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.fingerprint import weights_hash
from multicrop.engine.precision import autocast_dtype
from multicrop.probes import knn, linear
from multicrop.probes.accuracy import balanced_accuracy, scores

Bank = dict[str, Tensor]
KNN, LINEAR = "knn", "linear"


class Frozen:
    """Networks whose features are probed. `weights` are hashes of those that `jobs` was asked for, in their order."""

    def __init__(self, recipe: Recipe, train: ImageSet, test: ImageSet, device: torch.device):
        self.recipe, self.train, self.test, self.device = recipe, train, test, device
        self.weights: list[str] = []
        self._train_indices = torch.empty(0, dtype=torch.int64)  # of the bank's training images
        self._bank: tuple[ProbeTarget, Bank] | None = None  # of the last network that was measured

    def jobs(self, target: ProbeTarget, images: dict[str, Any]) -> Iterator[Job]:
        """A job for each method, share and draw. images: what tells these from others."""
        assert self.train.labels is not None
        network = build(target, self.train.pixels.shape[1])
        self.weights.append(weights_hash(network))
        identity = {
            "images": images,
            "weights": self.weights[-1],
            "network": target.backbone,
            "precision": self.recipe.machine.precision,
        }
        name = PRETRAINED if target.seed is None else target.name
        if target.raw_pixels:
            name = target.name
        for method, settings in self._methods(target):
            for cell in cells(self.recipe.labels, name, method):
                used = cell.labelled(self.train.labels)
                measure = partial(self._measure, method, target, network, used)
                yield Job(cell, identity | settings, measure)

    def _methods(self, target: ProbeTarget) -> Iterator[tuple[str, dict[str, Any]]]:
        """The methods of a network, and what their numbers depend on beside it."""
        asked = self.recipe.methods
        if asked.knn:
            yield KNN, {"nb_knn": asked.nb_knn, "temperature": asked.temperature}
        if asked.linear and not target.raw_pixels:
            yield LINEAR, {"linear_c": asked.linear_c}

    def _measure(
        self, method: str, target: ProbeTarget, network: nn.Module, used: Tensor
    ) -> dict[str, Any]:
        """Accuracies in percent with the labels of these images. ValueError names the network."""
        bank = self._features(target, network)
        rows = torch.isin(self._train_indices, used).nonzero()[:, 0]
        labelled = {
            **bank,
            "train_features": bank["train_features"][rows.to(bank["train_features"].device)],
            "train_labels": bank["train_labels"][rows],
        }
        work = self._knn if method == KNN else self._linear
        try:
            return ranks.broadcast_object(lambda: {"images": len(rows), **work(labelled)})
        except ValueError as error:
            raise ValueError(f"{target.name}: {error}") from None

    def _features(self, target: ProbeTarget, network: nn.Module) -> Bank:
        """Features (N, D) and labels (N,) of both splits, on rank 0; kept until another network's are asked for."""
        if self._bank is None or self._bank[0] is not target:
            self._bank = target, self._extract(target, network.to(self.device))
        return self._bank[1]

    def _extract(self, target: ProbeTarget, network: nn.Module) -> Bank:
        size = target.backbone["image_size"]
        transform = eval_transform(target.file.metadata, size, self.train)
        dtype = autocast_dtype(self.recipe.machine.precision, self.device)
        settings = transform, self.device, dtype, self.recipe.machine.batch_size
        bank: Bank = {}
        for name, images in (("train", self.train), ("test", self.test)):
            assert images.labels is not None
            every = torch.arange(len(images))
            features = gathered(own_features(network, images, every, *settings), to=0)
            bank[f"{name}_features"] = features.values
            bank[f"{name}_labels"] = images.labels[features.indices]
            if name == "train":
                self._train_indices = features.indices
        return bank

    def _knn(self, bank: Bank) -> dict[str, float]:
        asked = self.recipe.methods
        (place,) = knn.places(
            **bank,
            k=(asked.nb_knn,),
            temperature=asked.temperature,
            classes=len(self.train.classes),
            backend=asked.backend,
        ).values()
        hits = place < 1
        top1 = round(100 * hits.double().mean().item(), 3)
        return {"top1": top1, "balanced_accuracy": balanced_accuracy(hits, bank["test_labels"])}

    def _linear(self, bank: Bank) -> dict[str, float]:
        c = self.recipe.methods.linear_c
        classifier = linear.fit(bank["train_features"], bank["train_labels"], c)
        if not classifier.converged:
            ranks.log(linear.unconverged(c))
        return scores(classifier.predict(bank["test_features"]), bank["test_labels"])
