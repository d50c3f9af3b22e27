"""What is measured of a classifier under corruptions, kept in a file while it goes on. N images."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._features import shared_features
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write
from multicrop.probes.accuracy import accuracies
from multicrop.probes.calibration import calibration

# error, top1 and top5 in percent, and what calibration has; with a temperature the same of logits / temperature as
# calibrated_...
Numbers = dict[str, float]


class Measured:
    """A classifier whose errors and calibration are measured on images as the transform shows them."""

    def __init__(
        self,
        model: nn.Module,
        transform: EvalTransform,
        device: torch.device,
        dtype: torch.dtype | None,
        batch_size: int,
        temperature: float | None = None,
    ):
        self.model, self.settings = model, (transform, device, dtype, batch_size)
        self.temperature = temperature

    def numbers(self, images: ImageSet) -> Numbers:
        assert images.labels is not None
        every = torch.arange(len(images))
        logits, kept = shared_features(self.model, images, every, *self.settings)
        labels = images.labels[kept].to(logits.device)
        top1, top5 = accuracies(logits, labels)
        numbers = {"error": round(100 - top1, 3), "top1": top1, "top5": top5}
        numbers |= calibration(logits, labels).to_dict()
        if self.temperature is not None:
            calibrated = calibration(logits / self.temperature, labels).to_dict()
            numbers |= {f"calibrated_{name}": value for name, value in calibrated.items()}
        return numbers


class Measurements:
    """Numbers by corruption and severity; the file is written after each, and removed when all are there."""

    def __init__(self, path: Path, identity: dict[str, Any]):
        """identity: what an earlier measurement in the file must share to be gone on with."""
        self.path, self.identity = path, identity
        self.clean: Numbers = {}
        self.cells: dict[str, dict[int, Numbers]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):  # no file, or another's
            self._load(json.loads(path.read_text()))

    def _load(self, stored: dict[str, Any]) -> None:
        if stored["identity"] != self.identity:
            ranks.log(f"{self.path} is of other weights, images or settings: begun again")
            return
        self.clean = stored["clean"]
        for name, row in stored["cells"].items():
            self.cells[name] = {int(severity): numbers for severity, numbers in row.items()}
        ranks.log(f"{self.count} measurements are in {self.path} already")

    @property
    def count(self) -> int:
        return sum(map(len, self.cells.values()))

    def has(self, name: str, severity: int) -> bool:
        return severity in self.cells.get(name, {})

    def add(self, name: str, severity: int, numbers: Numbers) -> None:
        self.cells.setdefault(name, {})[severity] = numbers
        stored = {"identity": self.identity, "clean": self.clean, "cells": self.cells}
        with atomic_write(self.path) as file:
            file.write(json.dumps(stored).encode())

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
