"""The network that `multicrop export` writes, and what is known of its images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch.nn as nn

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._kept import say_which
from multicrop.commands._networks import backbone_of, image_facts
from multicrop.commands._prediction import read_temperature
from multicrop.config.sizes import ImageSize
from multicrop.engine import ranks
from multicrop.engine.metadata import Metadata
from multicrop.supervised.classifier import Classifier
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained

Returns = Literal["logits", "probabilities", "features"]


@dataclass(frozen=True)
class Exported:
    """A network in evaluation mode with the checkpoint that it is from.

    network: normalised images (B, C, S, S) float32 -> logits (B, classes), or features (B, D) where `returns` says so.
    key: which network of the checkpoint it is. temperature: what `predict` divides the logits by, and so the
    probabilities that are exported; None where there is none, or none is asked for.
    """

    network: nn.Module
    backbone: nn.Module
    file: Pretrained
    path: Path
    key: str
    returns: Returns
    transform: EvalTransform
    temperature: float | None = None

    @property
    def metadata(self) -> Metadata:
        return self.file.metadata

    @property
    def arch(self) -> str:
        return self.metadata.backbone["arch"]

    @property
    def size(self) -> ImageSize:
        """The side of its images in pixels, or height and width."""
        return self.metadata.backbone["image_size"]

    @property
    def channels(self) -> int:
        return self.metadata.backbone.get("in_channels", 3)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes in the order of its logits; () where it gives features."""
        if self.returns == "features":
            return ()
        return tuple(self.metadata.data["classes"])


def load(path: str, key: str, returns: str, calibrated: bool = True) -> Exported:
    """The network of a checkpoint file or run folder, with its temperature where `calibrated` asks for that.

    ValueError where it cannot return what is asked.
    """
    file = pretrained.read(path, key)
    assert file.path is not None
    metadata = file.metadata
    if not metadata.backbone:
        raise ValueError(
            f"{file.path} is not one of our checkpoints and does not say its architecture: export a run of ours, "
            "say one that was finetuned from it"
        )
    if returns in ("logits", "probabilities") and not file.head:
        raise ValueError(
            f"--returns {returns}: {file.path} has no classifier, it was not finetuned; it gives features"
        )
    if returns == "auto":
        returns = "logits" if file.head else "features"
    say_which(path, file)
    backbone = backbone_of(file, quiet=True)
    network = backbone
    if returns != "features":
        network = Classifier(backbone, len(file.head["weight"]))
        network.load_heads(file.head, file.second_head)
    mean, std, crop_pct, fit = image_facts(metadata)
    transform = EvalTransform(
        metadata.backbone["image_size"], mean, std, crop_pct=crop_pct, fit=fit
    )
    network.eval().requires_grad_(False)
    temperature = None if returns == "features" else read_temperature(file, key, calibrated)
    if returns == "logits" and temperature:
        ranks.log(
            f"logits as they are: softmax(logits / {temperature:.4g}) are the probabilities of predict"
        )
    how = cast(Returns, returns)
    return Exported(network, backbone, file, file.path, key, how, transform, temperature)
