"""Stage two: train a classifier from a pretrained backbone, or from scratch, or evaluate one.

Weights -> images -> augmented, mixed batches -> classifier -> objective -> optimizer -> accuracies. Every flag:
config/finetune.py. B images.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import cli
from multicrop.commands import _attention, _auto_finetune, _live_report, _summary
from multicrop.commands._classifier import TrainState, build, build_objective
from multicrop.commands._data import eval_transform
from multicrop.commands._description import describe_finetuning, with_ancestry
from multicrop.commands._evaluation import Evaluation, evaluate_file, forget_lost_best
from multicrop.commands._finetune_data import build_batches, load, mixed_batches
from multicrop.commands._inherited import resolve_recipe
from multicrop.commands._kept import AVERAGED, BEST
from multicrop.commands._linear_head import fit_heads
from multicrop.commands._live_report import LiveReport
from multicrop.commands._loop import start_loop
from multicrop.commands._stopping import stoppable
from multicrop.config.finetune import Recipe
from multicrop.config.flags import changed_flags, to_flags
from multicrop.engine import optim, ranks
from multicrop.engine.fingerprint import teacher_fingerprint
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype, choose_algorithms
from multicrop.engine.run import Run
from multicrop.engine.schedule import learning_rate
from multicrop.engine.step import accumulate_step
from multicrop.probes import linear
from multicrop.supervised import augmentation
from multicrop.supervised.augmentation import TrainTransform
from multicrop.supervised.mixing import Mixed, Mixing
from multicrop.supervised.teacher import TeacherOutput
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.run.device)
    dtype = autocast_dtype(recipe.run.precision, device)
    choose_algorithms(device, recipe.run.deterministic)
    augmentation.check_policy(recipe.augmentation)
    file = read_start(recipe)
    recipe = resolve_recipe(recipe, file)
    if recipe.start.eval:
        return evaluate_file(recipe, file, device, dtype)
    if recipe.optimisation.head_init == "linear":
        linear.check_installed()
    with stoppable() as interrupt, _attention.own_choices():  # also while images are decoded
        return train(recipe, file, device, dtype, interrupt)


def train(
    recipe: Recipe,
    file: Pretrained,
    device: torch.device,
    dtype: torch.dtype | None,
    interrupt: Interrupt,
) -> dict:
    # A folder that cannot be written is said before a long decoding.
    _live_report.check(recipe.run.report)
    run_folder = Run(recipe.run.output_dir, to_flags(recipe), recipe.OPERATIONAL, recipe.ADDED)
    page = LiveReport(recipe.run.report, run_folder)

    # Data: uint8 images; their order is a function of (seed, epoch), their augmentation and mixing of (seed, step).
    stored = run_folder.stored()
    recipe = _auto_finetune.network_of_files(recipe, stored)
    data = load(recipe, file)
    recipe = _auto_finetune.network_of_pixels(recipe, data.train, stored)
    recipe = _auto_finetune.fill_in(recipe, data.with_network(recipe, file), stored)
    recipe, lines = recipe.shortened()
    for line in lines:
        ranks.log(line)
    data = data.with_network(recipe, file)
    run_folder.recipe = to_flags(recipe)
    batches = build_batches(recipe, data, device)
    size, train_images = data.backbone["image_size"], data.train
    transform = TrainTransform.from_recipe(
        recipe.augmentation, data.entry, size, train_images.mean, train_images.std
    )

    # Network, and an earlier state of it where the run folder holds one.
    train_state = build(recipe, file, data, device)
    teacher = teacher_fingerprint(train_state.teacher) if train_state.teacher else {}
    metadata = describe_finetuning(
        recipe, data.backbone, data.dataset, data.train, batches, teacher
    )
    metadata = with_ancestry(metadata, recipe, file, stored)
    start = run_folder.resume(train_state, metadata.identity)
    run_folder.compare_images(train_images.pixels, metadata.identity, start)
    forget_lost_best(train_state, run_folder)
    for line in _summary.finetuning(recipe, data, train_state.model, batches, device):
        ranks.log(line)
    _attention.choose_for_finetuning(recipe, train_state, data, run_folder, start, dtype)
    run_folder.open(start, changed_flags(recipe))
    seen_as = eval_transform(metadata, size, data.train)
    evaluation = Evaluation(build_objective(recipe), seen_as, device, dtype)
    if start == 0 and recipe.optimisation.head_init == "linear":
        fit_heads(train_state, data, seen_as, dtype)

    # The loop.
    accuracy: dict[str, float] = {}
    calibration = run_folder.calibration  # of these weights: of none between two measurements
    watched = data.watched()
    epochs, per_epoch = recipe.optimisation.all_epochs, batches.steps_per_epoch
    loop = start_loop(recipe.run, run_folder, interrupt, device, batches, epochs, start)
    for step in loop.steps():
        # One update.
        lr = learning_rate(step, per_epoch, **recipe.optimisation.learning_rate())
        mix = Mixing.from_recipe(
            recipe.augmentation, step // per_epoch, recipe.optimisation.repeats
        )
        parts = mixed_batches(batches, transform, mix, recipe, step, train_state.stored_maps)
        output = update(train_state, loop.progress.waiting(parts), recipe, lr, step, dtype)
        train_state.update_average(step + 1)
        status = loop.end(output.loss, output.grad_norm)

        # A row of metrics.
        if status.logs:
            means = {name: ranks.all_reduce_mean(n) for name, n in output.numbers.items()}
            numbers = {name: mean.item() for name, mean in means.items()}
            run_folder.log(
                status.step, epoch=status.epochs, loss=loop.loss, **numbers, lr=lr, **loop.speed()
            )

        # Accuracies at epochs' ends.
        calibration = {}
        if watched and status.every(recipe.run.eval_freq):
            accuracy = evaluation.evaluate_with_ema(train_state, *watched)
            run_folder.log(status.step, epoch=status.epochs, **accuracy)
            page.update()
            calibration = evaluation.calibration()

        # Checkpoints.
        if status.saves:
            saved = metadata.at(status.step, status.epochs, calibration, loop.unlogged)
            # What is measured only because the loop ends here does not select: a run that goes on would skip it.
            if recipe.selects(status.epoch, status.ended):
                metric = train_state.best.metric
                measured = accuracy.get(f"ema_{metric}", accuracy.get(metric))
                if train_state.best.improve(measured, status.epoch):
                    best = train_state.state() | {"model": train_state.evaluated.state_dict()}
                    run_folder.keep(train_state.evaluated_as(saved), best, BEST)
            run_folder.save(saved, train_state.state())

        # A line for people.
        if status.ended or status.final:
            numbers = {"loss": loop.mean_loss, **accuracy, **loop.progress.latest}
            report(epochs, status.epochs, numbers)

    # The result: accuracies of the last weights, and of those that the validation images selected.
    result = loop.result()
    if result["status"] != "interrupted":
        if train_state.average:
            average = train_state.state() | {"model": train_state.average.model.state_dict()}
            saved = metadata.at(loop.done, loop.done // per_epoch, calibration)
            run_folder.keep(train_state.evaluated_as(saved), average, AVERAGED)
        result |= evaluation.final_evaluation(train_state, run_folder, data.test, loop)
    page.finish()
    run_folder.close()
    return result | files_of(run_folder, train_state)


def files_of(run_folder: Run, train_state: TrainState) -> dict[str, str | None]:
    """Where the run's weights are."""
    folder = run_folder.folder
    files: dict[str, str | None] = {"output_dir": str(folder), "checkpoint": run_folder.saved}
    files["best"] = str(folder / BEST) if train_state.best.epoch is not None else None
    if train_state.average:
        files["averaged"] = str(folder / AVERAGED)
    return files


# Weights


def read_start(recipe: Recipe) -> Pretrained:
    """The file of --pretrained_weights, or with --eval alone the run's newest checkpoint; nothing with --scratch.

    Rank 0 reads it for all: the run that writes it may still go on.
    """
    start = recipe.start
    start.check()
    if start.scratch:
        return Pretrained()
    path = start.pretrained_weights or recipe.run.output_dir
    return ranks.broadcast_object(
        lambda: pretrained.read(path, start.checkpoint_key, start.trust_checkpoint)
    )


# The step


class StepOutput(NamedTuple):
    loss: Tensor  # nats, this rank's mean
    # Parts of the loss, where it has several, and train_top1 in percent as images were mixed
    numbers: dict[str, Tensor]
    # None where gradients are scaled for fp16, which copes with overflows itself
    grad_norm: Tensor | None


def update(
    train_state: TrainState,
    batches: Iterable[Mixed],
    recipe: Recipe,
    lr: float,
    step: int,
    dtype: torch.dtype | None,
) -> StepOutput:
    """One optimizer step over all accumulation steps."""
    teacher, train_module, scaler = (
        train_state.teacher,
        train_state.train_module,
        train_state.scaler,
    )

    def forward(batch: Mixed) -> tuple[Tensor, dict[str, Tensor], None]:
        teacher_output = teacher(batch.images) if teacher else TeacherOutput(None, [])
        student = train_module(batch.images, batch.maps or teacher_output.maps)
        loss, parts = train_state.loss(student, batch, teacher_output.logits)
        hits = (student.logits.argmax(1) == batch.labels).float()
        numbers = parts if len(parts) > 1 else {}
        return loss, {**numbers, "train_top1": hits.mean() * 100}, None

    optim.set_rates(train_state.optimizer, lr, recipe.optimisation.weight_decay)
    means, _ = accumulate_step(
        train_state,
        batches,
        forward,
        count=recipe.optimisation.accumulate,
        key=(recipe.optimisation.seed, step),
        dtype=dtype,
    )
    clip = recipe.optimisation.clip_grad or float("inf")
    grad_norm = nn.utils.clip_grad_norm_(train_module.parameters(), clip)
    scaler.step(train_state.optimizer)
    scaler.update()
    loss = means.pop("loss")
    return StepOutput(loss, means, None if scaler.is_enabled() else grad_norm)


# What people see


def report(epochs: int, epoch: float, numbers: dict[str, float]) -> None:
    """A line for people at an epoch's end."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    ranks.log(f"epoch {epoch:g}/{epochs}: {shown}")


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
