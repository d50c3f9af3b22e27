"""The classifier of `multicrop predict`: its file's classes and temperature, and the probabilities of a batch.

B images, K classes.
"""

from typing import Any

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._image_stream import Decoded
from multicrop.commands._inference import Trained
from multicrop.engine import ranks
from multicrop.engine.fingerprint import weights_hash
from multicrop.probes.temperature import probabilities
from multicrop.supervised.classifier import Classifier
from multicrop.weights.pretrained import Pretrained


def build(network: Trained) -> Classifier:
    """ValueError where the file has no classifier."""
    file = network.file
    if not file.head:
        raise ValueError(
            f"{file.path} has no classifier, it was not finetuned; multicrop embed gives its features"
        )
    model = Classifier(network.backbone, len(file.head["weight"]))
    model.load_heads(file.head, file.second_head)
    return model.eval().requires_grad_(False)


def class_names(network: Trained) -> tuple[str, ...]:
    """In the order of the logits; numbers where the file has no names."""
    count = len(network.file.head["weight"])
    names = network.file.metadata.data.get("classes", ())
    return tuple(names) if len(names) == count else tuple(map(str, range(count)))


def read_temperature(file: Pretrained, key: str, calibrated: bool) -> float | None:
    """The temperature that the logits are divided by, if any; which it is is said."""
    fit = file.temperature(key)
    if not calibrated:
        ranks.log("no temperature: --calibrated false")
        return None
    if fit is None:
        ranks.log(
            "no temperature: the checkpoint has none that was fitted on validation images (of its own weights, enough "
            "of them, some told wrong)"
        )
        return None
    ranks.log(f"temperature {fit['temperature']:.4g}, fitted on {fit['images']} validation images")
    return fit["temperature"]


class Prediction:
    """From decoded images to what a part stores of each: [class numbers, probabilities], or why it is not readable."""

    def __init__(
        self,
        classifier: Classifier,
        transform: EvalTransform,
        temperature: float,
        topk: int,
        mirrors: bool,
        dtype: torch.dtype | None,
    ):
        self.classifier, self.transform, self.temperature = classifier, transform, temperature
        self.topk, self.mirrors, self.dtype = topk, mirrors, dtype
        self.device = next(classifier.parameters()).device
        self.images = 0  # seen by now

    @property
    def identity(self) -> dict[str, Any]:
        """What the rows follow from, beside the images."""
        return {
            "weights": weights_hash(self.classifier),
            "temperature": self.temperature,
            "topk": self.topk,
            "tta": self.mirrors,
            "mean": list(self.transform.mean),
            "std": list(self.transform.std),
        }

    def __call__(self, batch: Decoded) -> list[Any]:
        probabilities, numbers = self.probabilities(batch.pixels).topk(self.topk)
        rows: list[Any] = [
            [*pair] for pair in zip(numbers.tolist(), probabilities.tolist(), strict=True)
        ]
        for row, reason in batch.errors.items():
            rows[row] = reason
        self.images += len(rows)
        return rows

    @torch.inference_mode()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, S, S) -> (B, K)."""
        images = self.transform(pixels.to(self.device))
        found = self._of_view(images)
        if self.mirrors:
            found = (found + self._of_view(images.flip(-1))) / 2
        return found

    def _of_view(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.classifier(images)
        return probabilities(logits, self.temperature)
