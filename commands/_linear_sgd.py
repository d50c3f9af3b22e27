"""Linear layers trained on augmented images under a frozen network, as DINO's eval_linear.py trains one.

Images -> random resized crops, flips -> frozen features -> a layer for each learning rate -> cross-entropy -> SGD, its
rates a cosine over the epochs. B images, R rates.
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment import crop
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._inherited import never_mirrored
from multicrop.commands._linear_parts import Probe
from multicrop.config.linear import Recipe, SgdProbe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks, seeds
from multicrop.engine.batches import Batches
from multicrop.engine.metadata import Metadata
from multicrop.engine.progress import Progress
from multicrop.engine.schedule import epoch_cosine
from multicrop.probes.accuracy import scores
from multicrop.probes.features import evaluation_mode
from multicrop.probes.linear_heads import LinearHeads, losses
from multicrop.registry import source
from multicrop.weights.pretrained import Pretrained

LINES = 10  # about so many lines for people


def sgd_probe(probe: Probe, file: Pretrained, dataset: str) -> dict[str, Any]:
    """A head for each learning rate; the validation images choose one."""
    recipe, parts, features = probe.recipe, probe.parts, probe.features
    batches = build_batches(recipe, parts.train, parts.fitted, probe.device)
    flip = flip_probability(recipe.sgd, dataset, file.metadata)
    crops = CroppedImages(recipe.sgd, flip, probe.seen_as, recipe.linear.probe_seed)
    classes = len(parts.train.classes)
    heads, progress = train_heads(
        recipe, features, features.dim, classes, batches, crops, probe.dtype
    )
    numbers: dict[str, Any] = {}
    chosen = 0
    if len(recipe.sgd.lr) > 1:
        images, indices = (parts.train, parts.held_out) if parts.own is None else (parts.own, None)
        seen, labels, _ = probe.of(images, indices)
        hits = predictions_of(heads, seen) == labels
        top1 = [round(100 * row.double().mean().item(), 4) for row in hits]
        chosen = top1.index(max(top1))
        by_rate = dict(zip(recipe.sgd.lr, top1, strict=True))
        numbers = {"validation_top1": top1[chosen], "sweep": by_rate}
        if recipe.sgd.lr[chosen] in (min(recipe.sgd.lr), max(recipe.sgd.lr)):
            ranks.log(
                f"--lr {recipe.sgd.lr[chosen]:g} is at the edge of what was tried, and takes values beyond"
            )
    test, labels, _ = probe.of(parts.test)
    predictions = predictions_of(heads, test)[chosen]
    speed = progress.total()["images_per_second"]
    numbers["test_images"] = len(labels)
    lr = {"lr": recipe.sgd.lr[chosen], "peak_lr": recipe.sgd.rates(batches.total)[chosen]}
    return {**lr, **numbers, "images_per_second": speed, **scores(predictions, labels)}


@torch.no_grad()
def predictions_of(heads: nn.Module, features: Tensor) -> Tensor:
    """Features (N, D) -> the classes (R, N) that each head predicts, on the CPU. ValueError where a head diverged."""
    logits = heads(features)
    if not logits.isfinite().all(dim=(1, 2)).any():
        raise ValueError("the probe has diverged at every learning rate: lower --lr")
    return logits.nan_to_num(float("-inf")).argmax(2).cpu()


class CroppedImages:
    """uint8 images (B, C, H, W) of a step -> random resized crops, flipped or not, as the network sees images."""

    def __init__(self, settings: SgdProbe, flip: float, seen_as: EvalTransform, seed: int):
        self.cut = crop.RandomResizedCrop(settings.crop_scale, flip=flip)
        self.seen_as, self.seed = seen_as, seed

    def draw(self, batches: Batches, step: int) -> crop.CropBoxes:
        """Of the global batch of a step."""
        height, width = batches.pixels.shape[2:]
        random = seeds.generator(self.seed, "augment", step)
        return self.cut.draw(batches.total, height, width, random)

    def __call__(self, images: Tensor, draws: crop.CropBoxes) -> Tensor:
        return self.seen_as.normalise(crop.apply(images, draws, self.seen_as.size))


def flip_probability(settings: SgdProbe, dataset: str, metadata: Metadata) -> float:
    """Mirrored digits are no digits, and a network that never saw mirrored images is not shown any."""
    if settings.flip is not None:
        return settings.flip
    return 0.0 if source(dataset).entry == "svhn" or never_mirrored(metadata) else 0.5


def build_batches(
    recipe: Recipe, images: ImageSet, chosen: Tensor, device: torch.device
) -> Batches:
    size, world = recipe.sgd.batch_size_per_gpu, ranks.world_size()
    if size * world > len(chosen):
        size = max(1, len(chosen) // world)
        ranks.log(f"--batch_size_per_gpu {size}: there are {len(chosen)} training images to fit")
    return Batches(
        images.pixels,
        images.labels,
        size,
        seed=recipe.linear.probe_seed,
        device=device,
        rank=ranks.rank(),
        world=world,
        subset=chosen,
    )


def train_heads(
    recipe: Recipe,
    features: nn.Module,
    dim: int,
    classes: int,
    batches: Batches,
    crops: CroppedImages,
    dtype: torch.dtype | None,
) -> tuple[LinearHeads, Progress]:
    """A head for each rate of --lr, after all epochs. features: images (B, C, h, w) -> (B, dim), on the device."""
    settings, device = recipe.sgd, batches.device
    seeds.reseed(recipe.linear.probe_seed, "heads")
    heads = LinearHeads(dim, classes, len(settings.lr)).to(device)
    optimizer = heads.optimizer(settings.rates(batches.total), settings.momentum)
    learner = ranks.wrap(heads, device)
    progress = Progress(settings.epochs * batches.steps_per_epoch, 0, batches.total)
    with evaluation_mode(features):
        for epoch in range(settings.epochs):
            for group in optimizer.param_groups:
                group["lr"] = epoch_cosine(epoch, settings.epochs, group["peak"], 0.0)
            total = torch.zeros(len(settings.lr), device=device)
            for position in range(batches.steps_per_epoch):
                step = epoch * batches.steps_per_epoch + position
                total += update(learner, optimizer, features, batches, crops, step, dtype)
                progress.step()
            report(epoch + 1, settings, total / batches.steps_per_epoch)
    progress.close()
    return heads, progress


def update(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    features: nn.Module,
    batches: Batches,
    crops: CroppedImages,
    step: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """One step of all heads -> their losses (R,) in nats, of this rank's images."""
    (batch,) = batches.step(step)
    assert batch.labels is not None
    images = crops(batch.images, crops.draw(batches, step)[batch.rank_slice])
    kind = batches.device.type
    with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype is not None):
        seen = features(images)
    loss = losses(learner(seen.float()), batch.labels)
    optimizer.zero_grad()
    loss.sum().backward()
    optimizer.step()
    return loss.detach()


def report(epoch: int, settings: SgdProbe, loss: Tensor) -> None:
    """A line for people, after about every tenth of the epochs."""
    if epoch % max(1, settings.epochs // LINES) and epoch != settings.epochs:
        return
    loss = ranks.all_reduce_mean(loss)
    best = int(loss.nan_to_num(float("inf")).argmin())
    ranks.log(
        f"epoch {epoch}/{settings.epochs}: training loss {loss[best]:.4g} at --lr {settings.lr[best]:g}"
    )
