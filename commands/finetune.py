"""Stage two: train a classifier from a pretrained backbone, or from scratch, or evaluate one.

    python finetune.py --pretrained_weights runs/ssl          # the embedded data set on this machine
    python finetune.py --scratch
    python finetune.py --eval --pretrained_weights runs/finetune/best.pt
    torchrun --nproc-per-node 2 finetune.py --dataset CIFAR10 --datapath data --pretrained_weights runs/ssl

Weights -> images -> augmented, mixed batches -> classifier -> objective -> optimizer -> accuracies. Every flag:
config/finetune.py.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import cli
from multicrop.commands import _images
from multicrop.commands._evaluation import BEST, both, conclude, evaluate, measuring
from multicrop.commands._summary import plan
from multicrop.commands._train_state import Networks
from multicrop.config.finetune import Recipe
from multicrop.datasets._images import LoadOptions
from multicrop.engine import optim, ranks, sampling, seeds
from multicrop.engine.batches import Batches
from multicrop.engine.fingerprint import fingerprint, images_print, teacher_print
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.loop import Loop
from multicrop.engine.precision import autocast_type, repeatable
from multicrop.engine.run import Run
from multicrop.engine.schedule import course
from multicrop.registry import backbone, check, find, source
from multicrop.supervised import mixing, parameters, validation
from multicrop.supervised.augmentation import TrainTransform
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.ema import Ema
from multicrop.supervised.guidance import Guidance
from multicrop.supervised.loss import Loss
from multicrop.supervised.mixing import Mixed, Mixing
from multicrop.supervised.pairs import pair_maps
from multicrop.supervised.teacher import Taught, Teacher
from multicrop.supervised.teacher_maps import Features
from multicrop.supervised.train_module import Learner
from multicrop.weights import pretrained
from multicrop.weights.pretrained import File

AVERAGED = "averaged.pt"


def run(r: Recipe) -> dict:
    device = ranks.start(r.device)
    cast = autocast_type(r.precision, device)
    if r.deterministic:
        repeatable(device)
    file = read(r)
    r = settle(r, file)
    if r.eval:
        return evaluate(r, file, device, cast)
    with Interrupt() as interrupt:  # also while images are decoded
        return train(r, file, device, cast, interrupt)


def train(
    r: Recipe, file: File, device: torch.device, cast: torch.dtype | None, interrupt: Interrupt
) -> dict:
    run = Run(r.output_dir, r)  # a folder that cannot be written is said before a long decoding

    # Data: uint8 images; their order is a function of (seed, epoch), their augmentation and mixing of (seed, step).
    data = load(r, file)
    batches = Batches(
        data.train.pixels, data.train.labels, r.share(ranks.world()), seed=r.seed, device=device, passes=r.ra,
        subset=data.chosen, accumulate=r.accumulate, rank=ranks.rank(), world=ranks.world(),
        order=partial(sampling.repeated, len(data.chosen), r.seed, repeats=r.repeats) if r.repeats > 1 else None,
    )  # fmt: skip
    augment = r.augmentation(
        data.entry, data.backbone["image_size"], data.train.mean, data.train.std
    )
    per_epoch = batches.steps_per_epoch
    steps = r.all_epochs * per_epoch

    # Network, and an earlier state of it where the run folder holds one.
    nets = build(r, file, data, device)
    lengths = {
        "global_batch": batches.total,
        "images": batches.images,
        "steps_per_epoch": per_epoch,
    }
    lengths |= fingerprint(data.train)
    lengths |= teacher_print(nets.teacher) if nets.teacher else {}
    start = run.resume(nets, **lengths)
    for line in plan(r, data, nets.model, batches, ranks.world(), device.type):
        ranks.say(line)
    run.open(start)
    about, seen = description(r, data) | lengths, {}
    measure = measuring(nets.loss.objective, about, device, cast)

    # The loop.
    loop = Loop(
        interrupt, device, start=start, steps=steps, stop=r.max_steps, per_epoch=per_epoch, images=batches.total,
        log_freq=r.log_freq, save_steps=r.save_steps, loss=run.latest("loss"),
    )  # fmt: skip
    for step in loop.steps():
        lr = course(step, per_epoch, **r.course())
        mix = r.mixing(step // per_epoch, copies=r.repeats)
        parts = loop.progress.waiting(mixed(batches, augment, mix, r.seed, step, nets.stored))
        trained = update(nets, parts, r, lr, step, cast)
        nets.follow(step + 1)
        now = loop.end(trained.loss, trained.grad_norm)
        if now.logs:
            terms = {name: ranks.mean(term).item() for name, term in trained.parts.items()}
            top1 = ranks.mean(trained.top1).item()
            run.log(
                now.done,
                epoch=now.epochs,
                loss=loop.loss,
                **terms,
                train_top1=top1,
                lr=lr,
                **loop.speed(),
            )
        if now.every(r.eval_freq):
            seen = both(measure, nets, *data.watched())
            run.log(now.done, epoch=now.epochs, **seen)
        if now.saves:
            # What is measured only because the loop ends here does not select: a run that goes on would skip it.
            better = r.selects(now.epoch, now.ended) and nets.best.improve(
                seen.get("ema_val_top1", seen.get("val_top1")), now.epoch
            )
            state = {**about, "step": now.done, "epoch": now.epochs, **nets.state()}
            if better:
                run.keep(state | {"model": nets.watched.state_dict()}, BEST)
            run.save(state)
        if now.ended or now.final:
            report(r, now.epochs, {"loss": loop.loss, **seen, **loop.progress.latest})
    result = loop.result()
    if result["status"] != "interrupted":
        if nets.average:
            state = {**about, "step": loop.done, "epoch": loop.done // per_epoch, **nets.state()}
            run.keep(state | {"model": nets.average.state_dict()}, AVERAGED)
        result |= conclude(measure, nets, run, data, loop)
    run.close()
    files = {
        "checkpoint": str(run.newest),
        "best": str(run.folder / BEST) if nets.best.found else None,
    }
    files |= {"averaged": str(run.folder / AVERAGED)} if nets.average else {}
    return {**result, "output_dir": str(run.folder), **files}


# Weights


def read(r: Recipe) -> File:
    """The file of --pretrained_weights, or with --eval alone the run's newest checkpoint; nothing with --scratch.

    Rank 0 reads it for all: the run that writes it may still go on.
    """
    r.check_start()
    if r.scratch:
        return File()
    path = r.pretrained_weights or r.output_dir
    return ranks.share(lambda: pretrained.read(path, r.checkpoint_key, r.trust_checkpoint))


def settle(r: Recipe, file: File) -> Recipe:
    """The recipe with what follows from the weights' file and the run's length."""
    dataset, datapath, source_size = file.origin(r.dataset, r.datapath, r.source_size)
    r, lines = replace(r, dataset=dataset, datapath=datapath, source_size=source_size).shortened()
    for line in () if r.eval else lines:
        ranks.say(line)
    return r


# Data


@dataclass(frozen=True)
class Data:
    """The images of both splits; `chosen` are the training images in use, `held` those of the validation."""

    entry: str
    train: object
    test: object
    chosen: Tensor
    held: Tensor
    backbone: dict
    reported: bool  # whether it has been said what the weights' file fills

    def watched(self) -> tuple:
        """What to look at after an epoch: the validation images, or without them the test images."""
        return ("val", self.train, self.held) if len(self.held) else ("test", self.test)


def load(r: Recipe, file: File) -> Data:
    described = file.about.get("backbone", {})
    early = r.backbone(described, None, described.get("in_channels", 3))
    if file.path and early["image_size"]:  # what the file fills is said before a long decoding
        pretrained.fill(backbone(**early), file, early["arch"])
    else:
        check(**early)
    options = LoadOptions(r.stored_side(described), r.download, r.stream, r.workers)
    train, test = _images.load_labelled(r.dataset, r.datapath, options)
    mean, std = r.colours(train.mean, train.std)
    train, test = (replace(split, mean=mean, std=std) for split in (train, test))
    entry = source(r.dataset).entry
    chosen, held = validation.split(
        train.labels, r.val_fraction, seeds.generator(r.seed, "validation")
    )
    options = r.backbone(described, train.pixels.shape[-1], train.pixels.shape[1])
    return Data(entry, train, test, chosen, held, options, reported=options == early)


def mixed(
    batches: Batches,
    augment: TrainTransform,
    mix: Mixing,
    seed: int,
    step: int,
    stored: Callable | None = None,
) -> Iterator[Mixed]:
    """The images of each accumulation step; what is done to them is drawn for the global batch, then cut by rank.

    stored: what gives a batch's maps of the teacher.
    """
    random = seeds.generator(seed, "augment", step)
    drawn = augment.draw(batches.total, random, batches.pixels.shape[2:])
    drawn_mix = mix.draw(augment.size, augment.size, random)
    for batch in batches.step(step):
        part = drawn[batch.place]
        found = mixing.apply(augment(batch.images, part), batch.labels, drawn_mix)
        yield replace(found, maps=stored(batch.index, part)) if stored else found


# Network


def build(r: Recipe, file: File, data: Data, device: torch.device) -> Networks:
    teacher = teach(r, data, device)
    seeds.reseed(r.seed, "weights")
    model = Classifier(backbone(**data.backbone), len(data.train.classes), r.head_init)
    if file.path:
        pretrained.fill(model.backbone, file, data.backbone["arch"], quiet=data.reported)
    guidance, names, stored = guided(r, model.backbone, teacher, data, device)
    if r.freeze_backbone:
        model.freeze_backbone()
    model = ranks.synchronised_norms(model.to(device), device)
    average = Ema(model, r.ema_decay, warmup=r.ema_warmup) if r.ema_decay else None
    learner = Learner(model, guidance, names, r.distils).to(device)
    if r.compile:
        model.compile()
        learner.compile()
    objective = find("supervised.objectives", r.objective).Objective(r.smoothing if r.ls else 0.0)
    loss = Loss(objective, r.distiller(), r.ce_weight, r.guide_weight)
    example = torch.zeros(
        2, data.backbone["in_channels"], *2 * [data.backbone["image_size"]], device=device
    )
    groups = parameters.chosen(learner, model.backbone, r.decay, r.no_decay, r.layer_decay, example)
    optimizer = optim.build(r.optimizer, groups, r.momentum, r.nesterov)
    scaler = torch.amp.GradScaler(device.type, enabled=r.precision == "fp16")
    return Networks(
        model,
        ranks.wrap(learner, device),
        loss,
        teacher,
        guidance,
        stored,
        optimizer,
        scaler,
        average,
    )


def teach(r: Recipe, data: Data, device: torch.device) -> Teacher | None:
    """The teacher of --teacher, where it is to see each batch."""
    if not r.runs_teacher:
        return None
    file = ranks.share(lambda: pretrained.read(r.teacher, trust=r.trust_checkpoint))
    r.check_classes(file, data.train.classes, r.dataset)
    network, options = pretrained.network(
        file, r.teacher_arch, r.teacher_image_size, data.backbone["in_channels"]
    )
    if file.head:
        network = Classifier(network, len(file.head["weight"]))
        network.load_heads(file.head, file.second_head)
    about, own = file.about.get("data"), (data.train.mean, data.train.std)
    colours = (own, (about["mean"], about["std"])) if about else None
    return Teacher(network, options["image_size"], batch_norm=r.teacher_bn, colours=colours).to(
        device
    )


def guided(
    r: Recipe, student: nn.Module, teacher: Teacher | None, data: Data, device: torch.device
) -> tuple[Guidance | None, tuple[str, ...], Callable | None]:
    """The loss of the student's maps against the teacher's, the names of the student's, and where the teacher's are
    stored, what gives those of a batch."""
    if not r.guides:
        return None, (), None
    features, stored = None, None
    if r.guidance_features:
        expected = images_print(data.entry, data.train)
        features = Features.open(
            r.guidance_features, expected | (teacher_print(teacher) if teacher else {})
        )
    guide = features or teacher.backbone
    own, theirs = pair_maps(student, guide, r.guide_student, r.guide_teacher)
    if features:
        shape, size = tuple(data.train.pixels.shape[2:]), data.backbone["image_size"]
        stored = partial(
            features.cut, names=theirs, source=shape, size=size, padding=r.padding, device=device
        )
    else:
        teacher.names = theirs
    widths = [student.maps[name].width for name in own], [guide.maps[name].width for name in theirs]
    ranks.say(
        "guidance: " + ", ".join(f"{a} follows {b}" for a, b in zip(own, theirs, strict=True))
    )
    return Guidance(*widths, r.guidance), own, stored


def description(r: Recipe, data: Data) -> dict:
    """What a checkpoint says about itself."""
    about = {name: [*getattr(data.train, name)] for name in ("classes", "mean", "std")}
    about |= {"dataset": r.dataset, "crop_pct": r.crop_pct}
    return {"kind": "finetune", "backbone": data.backbone, "data": about}


# The step


class Seen(NamedTuple):
    """What one step leaves to look at."""

    loss: Tensor  # nats, this rank's mean
    top1: Tensor  # percent, on this rank's images as they were mixed
    parts: dict[str, Tensor]  # of the loss, where it has several
    grad_norm: (
        Tensor | None
    )  # None where gradients are scaled for fp16, which copes with overflows itself


def update(
    nets: Networks,
    parts: Iterable[Mixed],
    r: Recipe,
    lr: float,
    step: int,
    cast: torch.dtype | None,
) -> Seen:
    """One optimizer step over all accumulation steps."""
    optim.set_rates(nets.optimizer, lr, r.weight_decay)
    nets.optimizer.zero_grad()
    seen, right = [], []
    for part, batch in enumerate(parts):
        seeds.reseed(r.seed, step, "drop", part * ranks.world() + ranks.rank())
        with (
            ranks.accumulating(nets.learner, last=part == r.accumulate - 1),
            torch.autocast(batch.images.device.type, cast, enabled=cast is not None),
        ):
            taught = nets.teacher(batch.images) if nets.teacher else Taught(None, [])
            answer = nets.learner(batch.images, batch.maps or taught.maps)
            loss, terms = nets.loss(answer, batch, taught.logits)
            nets.scaler.scale(loss / r.accumulate).backward()
        seen.append(
            {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}
        )
        right.append((answer.logits.argmax(1) == batch.labels).float().mean() * 100)
    nets.scaler.unscale_(nets.optimizer)
    norm = nn.utils.clip_grad_norm_(nets.learner.parameters(), r.clip_grad or float("inf"))
    nets.scaler.step(nets.optimizer)
    nets.scaler.update()
    means = {name: torch.stack([terms[name] for terms in seen]).mean() for name in seen[0]}
    loss, terms = means.pop("loss"), means if len(means) > 1 else {}
    return Seen(loss, torch.stack(right).mean(), terms, None if nets.scaler.is_enabled() else norm)


# What people see


def report(r: Recipe, epoch: float, numbers: dict[str, float]) -> None:
    """A line for people at an epoch's end."""
    ranks.say(
        f"epoch {epoch:g}/{r.all_epochs}: "
        + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    )


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
