"""What a run is going to do: the numbers that follow from its recipe, each with its reason; lines for people."""

import torch
import torch.nn as nn

from multicrop.commands import _compiler, _imbalance
from multicrop.commands._finetune_data import FinetuneData
from multicrop.commands._student import TrainState
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.learning_rate import scaling_in_words
from multicrop.config.pretrain import LR_BATCH
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.sizes import ImageSize, half, height_width, in_words
from multicrop.engine import ranks, sharding
from multicrop.engine.batches import Batches
from multicrop.supervised.augmentation import flip_probability, policy_name

FEW_STEPS = (
    500  # a rule of thumb: a run this short is a trial, and its features are next to random ones
)


def counted(count: int, size: ImageSize) -> str:
    """8 x 16 px, or 8 of 16 x 32 px."""
    height, width = height_width(size)
    return f"{count} x {height} px" if height == width else f"{count} of {in_words(size)} px"


def pretraining(
    recipe: Pretraining, train_state: TrainState, batches: Batches, device: torch.device
) -> list[str]:
    images, total, per_epoch = batches.images, batches.total, batches.steps_per_epoch
    optimisation, size = recipe.optimisation, recipe.backbone.image_size
    weights = sum(parameter.numel() for parameter in train_state.student.parameters())
    scaling = scaling_in_words(optimisation.lr, total, LR_BATCH)
    objective = train_state.objective
    chance = "ln K" if objective.prototypes else "a student that tells nothing apart has"
    lines = [
        f"{images} images of {recipe.data.dataset}, {per_epoch} steps per epoch = {images} // {total}, "
        f"{optimisation.epochs} epochs",
        f"global batch {total} = {batches.size} images x {ranks.world_size()} ranks x {batches.accumulate} accumulated",
        f"peak learning rate {optimisation.peak_lr(total):g} = {scaling}, "
        f"after {optimisation.warmup_epochs} epochs",
        f"{recipe.backbone.arch}: {weights:,} weights with the head; crops {counted(2, size)}, "
        f"{counted(recipe.crops.local_crops_number, half(size))}; {chance} = {objective.uninformed_loss:.2f} nats",
        f"{device.type}, {recipe.run.precision} precision, {_compiler.in_words(recipe.run, device, batches.size)}"
        f"run folder {recipe.run.output_dir}",
    ]
    if recipe.run.shard:
        lines.append(_sharding(train_state))
    steps = per_epoch * optimisation.epochs
    if steps < FEW_STEPS:
        lines.append(
            f"warning: {steps} steps in all are few, self-distillation takes some thousands: "
            "raise --epochs, or lower --batch_size_per_gpu"
        )
    return lines


def _sharding(train_state: TrainState) -> str:
    if not sharding.is_sharded(train_state.student):
        return "--shard: one process alone has nothing to share out; torchrun starts several"
    own = sum(share.numel() for share in sharding.local(train_state.student.parameters()))
    return f"sharded over {ranks.world_size()} ranks: {own:,} of these weights on the first"


def finetuning(
    recipe: Finetuning, data: FinetuneData, model: nn.Module, batches: Batches, device: torch.device
) -> list[str]:
    optimisation, total, images = recipe.optimisation, batches.total, batches.images
    weights = [parameter.numel() for parameter in model.parameters()]
    learning = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    passes = f"{optimisation.ra} passes x {images}"
    if optimisation.repeats > 1:
        passes = f"{optimisation.repeats} repeats of a part of {images}"
    scaling = scaling_in_words(optimisation.lr, total, optimisation.lr_batch)
    flip = flip_probability(recipe.augmentation, data.entry)
    policy = policy_name(recipe.augmentation, data.entry)
    validation = f"{len(data.held_out)} held out for validation"
    if data.validation is not None:
        validation = f"{len(data.validation)} validation images of its own"
    lines = []
    if optimisation.freeze_backbone and recipe.start.scratch:
        lines.append(
            "warning: --freeze_backbone with --scratch: only the classifier learns, on features of random weights"
        )
    lines += _imbalance.lines(recipe, data)
    return [
        *lines,
        f"{images} images of {data.dataset} in {len(data.train.classes)} classes, {validation}, "
        f"{len(data.test)} test images",
        f"{batches.steps_per_epoch} steps per epoch = {passes} // {total}, {optimisation.all_epochs} epochs",
        f"global batch {total} = {batches.size} images x {ranks.world_size()} ranks x {batches.accumulate} parts",
        f"peak learning rate {optimisation.peak_lr:g} after {optimisation.warmup} epochs; {scaling}",
        f"{data.backbone['arch']}: {sum(weights):,} weights with the classifier, {sum(learning):,} of them learn; "
        f"images {in_words(data.backbone['image_size'])} px, flips {flip:g}, {policy or 'no'} augmentation policy, "
        f"erasing {recipe.augmentation.re:g}",
        f"{device.type}, {recipe.run.precision} precision, {_compiler.in_words(recipe.run, device, batches.size)}"
        f"run folder {recipe.run.output_dir}",
    ]
