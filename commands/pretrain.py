"""Stage one: pretrain a backbone on unlabelled images by multi-crop self-distillation (DINO).

Images -> crops -> student and teacher -> objective -> optimizer -> checkpoint. Every flag: config/pretrain.py.
B images, G global and L local crops, V = G + L views, K outputs of the head.
"""

from collections.abc import Iterator
from itertools import cycle

import torch

from multicrop import cli, registry
from multicrop.commands import _attention, _auto, _beginning, _live_report, _summary
from multicrop.commands._beginning import Origin
from multicrop.commands._data import pretraining_batches, pretraining_images
from multicrop.commands._description import describe_pretraining
from multicrop.commands._global_batch import with_its_global_batch
from multicrop.commands._live_report import LiveReport
from multicrop.commands._loop import start_loop
from multicrop.commands._monitor import (
    Monitor,
    online_baselines,
    online_knn,
    stored_accuracies,
)
from multicrop.commands._ssl_step import Rates, StepOutput, rates_at, update
from multicrop.commands._stopping import stoppable
from multicrop.commands._student import TrainState, build
from multicrop.config.flags import changed_flags, to_flags
from multicrop.config.pretrain import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import compiled, ranks, seeds
from multicrop.engine.batches import Batches
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype, choose_algorithms
from multicrop.engine.run import Run
from multicrop.ssl.crops import Crops, MultiCrop


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.run.device)
    dtype = autocast_dtype(recipe.run.precision, device)
    choose_algorithms(device, recipe.run.deterministic)
    with stoppable() as interrupt, _attention.own_choices():  # also while images are decoded
        recipe, origin = _beginning.resolve(recipe)
        recipe = _auto.resolve(recipe, lambda r, images: time_step(r, images, device, dtype))
        return train(recipe, origin, device, dtype, interrupt)


def train(
    recipe: Recipe,
    origin: Origin,
    device: torch.device,
    dtype: torch.dtype | None,
    interrupt: Interrupt,
) -> dict:
    # Names, networks and the run folder: what is wrong with them is said before a long decoding.
    registry.source(recipe.data.dataset)
    _live_report.check(recipe.run.report)
    train_state = build(recipe, 3, device)
    run_folder = Run(recipe.run.output_dir, to_flags(recipe), recipe.OPERATIONAL, recipe.ADDED)
    page = LiveReport(recipe.run.report, run_folder)
    recipe = with_its_global_batch(recipe, run_folder)

    # Data: uint8 images; their order is a function of (seed, epoch), their crops of (seed, step).
    images, probe = pretraining_images(recipe)
    channels, classes = images.pixels.shape[1], learned_classes(recipe, images)
    if channels != 3 or classes:
        train_state = build(recipe, channels, device, classes)
    seed = recipe.optimisation.seed
    batches = pretraining_batches(recipe, images, device)
    multi_crop = build_crops(recipe, images, device)

    # The networks' latest state, where the run folder holds one, or the weights to begin from.
    metadata = describe_pretraining(recipe, train_state.student.backbone, images, batches)
    start, metadata = _beginning.begin(recipe, origin, train_state, run_folder, metadata)
    taken = recipe.begin.resume_changed_data
    run_folder.compare_images(images.pixels, metadata.identity, start, as_they_are=taken)
    for line in _summary.pretraining(recipe, train_state, batches, device):
        ranks.log(line)
    _attention.choose_for_pretraining(recipe, train_state, channels, run_folder, start, dtype)
    run_folder.open(start, changed_flags(recipe))
    monitor = Monitor(recipe, train_state.objective, run_folder.rows())

    # What the online probe is compared with, before the first step; a resumed run has measured it.
    accuracy = stored_accuracies(run_folder)
    probe_settings = recipe, device, dtype
    if probe is not None and start == 0:
        weights = "start" if metadata.ancestry else "random"
        accuracy = online_baselines(train_state.student.backbone, probe, *probe_settings, weights)
        run_folder.log(start, **accuracy)

    # The loop.
    per_epoch = batches.steps_per_epoch
    loop = start_loop(
        recipe.run, run_folder, interrupt, device, batches, recipe.optimisation.epochs, start
    )
    for step in loop.steps():
        # One update.
        rates = rates_at(recipe, step, loop.total, per_epoch, batches.total)
        schedule = train_state.objective.schedule(step // per_epoch)
        crops = loop.progress.waiting(cut_crops(batches, multi_crop, seed, step))
        output = update(train_state, crops, rates, schedule, recipe, dtype, step)
        status = loop.end(output.loss, output.checked_norm)

        # A row of metrics.
        if status.logs:
            metrics = step_metrics(train_state, monitor, output, loop.mean_loss, dtype)
            numbers = {**rates._asdict(), **schedule, **metrics, **loop.speed()}
            run_folder.log(status.step, epoch=status.epochs, loss=loop.loss, **numbers)

        # The online probe.
        if probe is not None and status.every(recipe.run.knn_freq):
            teacher = train_state.teacher.backbone
            accuracy["knn_top1"] = online_knn(teacher, probe, *probe_settings)
            run_folder.log(status.step, knn_top1=accuracy["knn_top1"])
            page.update()

        # Checkpoints.
        if status.saves:
            saved = metadata.at(status.step, status.epochs, unlogged=loop.unlogged)
            state = train_state.state()
            # What is kept for good comes first: once the newest one is there, the step counts as done.
            if status.keeps(recipe.run.saveckp_freq):
                run_folder.keep(saved, state, f"checkpoint{status.epoch:04d}.pt")
            run_folder.save(saved, state)

        # A line for people.
        if status.ended or status.final:
            numbers = {"loss": loop.mean_loss, **accuracy, **loop.progress.latest}
            monitor.report(status.epochs, numbers)

    # The result.
    page.finish()
    run_folder.close()
    paths = {"checkpoint": run_folder.saved, "output_dir": str(run_folder.folder)}
    return {**loop.result(), **accuracy, **paths}


def learned_classes(recipe: Recipe, images: ImageSet) -> int:
    """How many classes joint training learns; 0 where labels are not used. ValueError where there are none to use."""
    if not recipe.method.label_weight:
        return 0
    if images.labels is None:
        weight = f"--label_weight {recipe.method.label_weight:g}"
        raise ValueError(
            f"{weight} learns labels, and {recipe.data.dataset} has none: leave it out"
        )
    return len(images.classes)


def time_step(
    recipe: Recipe, images: ImageSet, device: torch.device, dtype: torch.dtype | None
) -> float:
    """Seconds of one step of this recipe here, measured on networks that are thrown away."""
    channels, classes = images.pixels.shape[1], learned_classes(recipe, images)
    train_state = build(recipe, channels, device, classes)
    batches = pretraining_batches(recipe, images, device)
    multi_crop = build_crops(recipe, images, device)
    schedule, rates = train_state.objective.schedule(0), Rates(0.0, 0.0, 1.0)

    def steps() -> Iterator[StepOutput]:
        for step in cycle(range(batches.steps_per_epoch)):
            crops = cut_crops(batches, multi_crop, 0, step)
            yield update(train_state, crops, rates, schedule, recipe, dtype, step)

    return _auto.timed_step(steps(), device)


# The step


def build_crops(recipe: Recipe, images: ImageSet, device: torch.device) -> MultiCrop:
    """What cuts the crops of these images; on CUDA compiled, where the networks are."""
    multi_crop = MultiCrop.from_recipe(recipe, images.mean, images.std)
    # Elsewhere a call has a graph's worth of images at a time, and the operations are written for that
    if device.type != "cuda" or not compiled.is_wanted(recipe.run.compile, device):
        return multi_crop
    return multi_crop.compiled(compiled.Compiler(True, "the crops").function)


def cut_crops(batches: Batches, multi_crop: MultiCrop, seed: int, step: int) -> Iterator[Crops]:
    """The crops of each accumulation step: parameters are drawn for the global batch, then cut to this rank's slice."""
    parameters = None
    for batch in batches.step(step):
        if parameters is None:
            height, width = batch.images.shape[-2:]
            parameters = multi_crop.draw(
                batches.total, height, width, seeds.generator(seed, "crops", step)
            )
        crops = multi_crop(batch.images, parameters[batch.rank_slice])
        yield crops._replace(labels=batch.labels)


def step_metrics(
    train_state: TrainState,
    monitor: Monitor,
    output: StepOutput,
    loss: float,
    dtype: torch.dtype | None,
) -> dict[str, float]:
    """The collapse metrics of the step's last crops, from this rank, and the gradient's norm."""
    student, targets, crops = output.last_batch
    statistics = train_state.objective.statistics(student, targets)
    metrics = monitor.metrics(train_state.teacher.backbone, crops[0], statistics, loss, dtype)
    parts = {name: value.item() for name, value in output.parts.items()}
    return {**metrics, **parts, "grad_norm": output.grad_norm.item()}


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
