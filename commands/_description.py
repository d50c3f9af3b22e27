"""What the checkpoints of both stages say about themselves."""

from dataclasses import replace
from typing import Any

import torch.nn as nn

from multicrop.commands._conversion import described_conversion
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._images import ImageSet
from multicrop.engine.batches import Batches
from multicrop.engine.fingerprint import content_hashes, image_hashes
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.weights.pretrained import Pretrained


def describe_pretraining(
    recipe: Pretraining, backbone: nn.Module, images: ImageSet, batches: Batches
) -> Metadata:
    """Its backbone can be rebuilt at any image size: a patch size that followed from this run's is written down."""
    options = recipe.backbone.options() | {"in_channels": images.pixels.shape[1]}
    patch_size = getattr(backbone, "patch_size", None)
    if patch_size:
        options["patch_size"] = patch_size
    data = {"dataset": recipe.data.dataset, **_of_images(images)}
    identity = batches.identity() | image_hashes(images) | content_hashes(images)
    return Metadata("ssl", backbone=options, data=data, identity=identity)


def describe_finetuning(
    recipe: Finetuning,
    options: dict[str, Any],
    dataset: str,
    images: ImageSet,
    batches: Batches,
    teacher: dict,
) -> Metadata:
    """options: of its backbone. teacher: what tells its teacher from others, empty without one."""
    data = {
        **_of_images(images),
        "dataset": dataset,
        "crop_pct": recipe.augmentation.crop_pct,
        "resample": recipe.augmentation.resample,
    }
    identity = batches.identity() | image_hashes(images) | content_hashes(images) | teacher
    return Metadata("finetune", backbone=options, data=data, identity=identity)


def with_ancestry(
    metadata: Metadata, recipe: Finetuning, file: Pretrained, stored: Checkpoint | None
) -> Metadata:
    """With what the run began from: the weights of a file and their own ancestry, or what its folder says already."""
    if stored is not None:
        return replace(metadata, ancestry=stored.metadata.ancestry)
    if file.path is None:
        return metadata
    return metadata.descending(str(recipe.start.pretrained_weights), file.metadata)


def _of_images(images: ImageSet) -> dict[str, Any]:
    """What whoever shows other images to the network needs to know."""
    return {
        "classes": list(images.classes),
        "mean": list(images.mean),
        "std": list(images.std),
        **described_conversion(images),
    }
