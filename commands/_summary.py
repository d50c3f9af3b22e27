"""What a run of stage two is going to do: the numbers that follow from the recipe, each with its reason."""

import torch.nn as nn

from multicrop.config.finetune import Recipe


def plan(r: Recipe, data, model: nn.Module, batches, ranks: int, device: str) -> list[str]:
    """Lines for people. data: finetune.Data, batches: Batches, device: its kind."""
    total, images = batches.total, len(data.chosen)
    weights = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scaled = (
        f"{r.lr:g} x {total} / {r.lr_batch}" if r.lr_batch else "it does not depend on the batch"
    )
    random = [
        "warning: --freeze_backbone with --scratch: only the classifier learns, on features of random weights"
    ]
    warnings = random if r.freeze_backbone and r.scratch else []
    passes = (
        f"{r.repeats} repeats of a part of {images}"
        if r.repeats > 1
        else f"{r.ra} passes x {images}"
    )
    return [
        *warnings,
        f"{images} images of {r.dataset} in {len(data.train.classes)} classes, {len(data.held)} held out for "
        f"validation, {len(data.test)} test images",
        f"{batches.steps_per_epoch} steps per epoch = {passes} // {total}, {r.all_epochs} epochs",
        f"global batch {total} = {batches.size} images x {ranks} ranks x {r.accumulate} parts",
        f"peak learning rate {r.peak_lr:g} after {r.warmup} epochs; {scaled}",
        f"{data.backbone['arch']}: {weights:,} weights with the classifier, {learning:,} of them learn; images "
        f"{data.backbone['image_size']} px, flips {r.flips(data.entry):g}, {r.policy(data.entry) or 'no'} augmentation "
        f"policy, erasing {r.re:g}",
        f"{device}, {r.precision} precision, run folder {r.output_dir}",
    ]
