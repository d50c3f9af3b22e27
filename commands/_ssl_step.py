"""A step of stage one: its rates, and one update of student, teacher and objective.

B images, G global and L local crops, V = G + L views, K outputs of the head, D features of the backbone.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from multicrop.commands._student import TrainState
from multicrop.config.pretrain import Recipe
from multicrop.engine import optim, ranks
from multicrop.engine.schedule import cosine
from multicrop.engine.step import accumulate_step
from multicrop.ssl.contrast import contrast
from multicrop.ssl.crops import Crops
from multicrop.ssl.koleo import koleo
from multicrop.ssl.objectives._base import Schedule
from multicrop.ssl.teacher import update_ema

# Of what is minimised, beside the objective
PARTS: tuple[str, ...] = ("koleo", "contrast", "label_loss")


class Rates(NamedTuple):
    lr: float
    weight_decay: float
    momentum: float


def rates_at(recipe: Recipe, step: int, steps: int, per_epoch: int, global_batch: int) -> Rates:
    optimisation = recipe.optimisation
    peak = optimisation.peak_lr(global_batch)
    warmup = round(optimisation.warmup_epochs * per_epoch)
    return Rates(
        lr=cosine(step, steps, peak, optimisation.min_lr, warmup=warmup),
        weight_decay=cosine(step, steps, optimisation.weight_decay, optimisation.weight_decay_end),
        momentum=cosine(step, steps, recipe.method.momentum_teacher, 1.0),
    )


class LastBatch(NamedTuple):
    """What there is to look at of a step's last accumulation step."""

    student: Tensor  # (V, B, K) outputs
    targets: Tensor | None  # (G, B, K)
    globals: Tensor  # (G, B, C, H, W) crops


class StepOutput(NamedTuple):
    loss: Tensor  # of the objective, nats, this rank's mean
    parts: dict[str, Tensor]  # what else is minimised, this rank's means: those of PARTS
    grad_norm: Tensor
    checked_norm: Tensor | None  # where it must be finite: fp16's scaler copes with overflows
    last_batch: LastBatch


def update(
    train_state: TrainState,
    crops: Iterable[Crops],
    rates: Rates,
    schedule: Schedule,
    recipe: Recipe,
    dtype: torch.dtype | None,
    step: int,
) -> StepOutput:
    """One optimizer step over all accumulation steps, then the teacher and the objective's state follow."""
    student, teacher, objective = train_state.student, train_state.teacher, train_state.objective
    method = recipe.method

    def forward(crops: Crops) -> tuple[Tensor, dict[str, Tensor], LastBatch]:
        targets, numbers = None, {}
        if objective.uses_teacher:
            with torch.no_grad():
                outputs = teacher(crops.globals).outputs
                targets = objective.targets(outputs, schedule, ranks.all_reduce_mean)
                numbers = objective.observe(outputs)
        views = train_state.train_module(crops.globals, crops.locals)
        loss = numbers["objective"] = objective.loss(views.outputs, targets)
        if method.koleo_weight:
            numbers["koleo"] = koleo(views.features)
            loss = loss + method.koleo_weight * numbers["koleo"]
        if method.contrast_weight:
            numbers["contrast"] = contrast(views.outputs[: len(crops.globals)])
            loss = loss + method.contrast_weight * numbers["contrast"]
        if method.label_weight:
            assert views.logits is not None and crops.labels is not None
            numbers["label_loss"] = label_loss(views.logits, crops.labels)
            loss = loss + method.label_weight * numbers["label_loss"]
        return loss, numbers, LastBatch(views.outputs.detach(), targets, crops.globals)

    optim.set_rates(train_state.optimizer, rates.lr, rates.weight_decay)
    means, last_batch = accumulate_step(
        train_state,
        crops,
        forward,
        count=recipe.optimisation.accumulate,
        key=(recipe.optimisation.seed, step),
        dtype=dtype,
    )
    grad_norm = optim.clip_per_parameter(student.parameters(), recipe.optimisation.clip_grad)
    objective.hold(student.head, schedule)
    train_state.scaler.step(train_state.optimizer)
    train_state.scaler.update()

    update_ema(teacher, student, rates.momentum)
    loss = means.pop("objective")
    parts = {name: means.pop(name) for name in PARTS if name in means}
    del means["loss"]  # with the other parts; what is reported compares with runs that have none
    objective.update({name: ranks.all_reduce_mean(value) for name, value in means.items()})
    checked_norm = None if train_state.scaler.is_enabled() else grad_norm
    return StepOutput(loss, parts, grad_norm, checked_norm, last_batch)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (G, B, classes) of the global crops and the images' labels (B,) -> mean cross-entropy, nats."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.repeat(len(logits)))
