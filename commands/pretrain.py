"""Stage one: pretrain a backbone on unlabelled images by multi-crop self-distillation (DINO).

    python train_ssl.py                                       # the embedded data set on this machine
    torchrun --nproc-per-node 2 train_ssl.py --arch vit --dataset CIFAR10 --datapath data --download

Images -> crops -> student and teacher -> objective -> optimizer -> checkpoint. Every flag: config/pretrain.py.
B images, G global and L local crops, V = G + L views, K prototypes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import ClassVar, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import cli
from multicrop.augment.evaluation import EvalTransform
from multicrop.config.pretrain import Recipe
from multicrop.datasets._images import LoadOptions
from multicrop.engine import optim, ranks, seeds
from multicrop.engine.batches import Batches
from multicrop.engine.fingerprint import fingerprint
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.loop import Loop, Now
from multicrop.engine.precision import autocast_type, repeatable
from multicrop.engine.run import Run
from multicrop.engine.schedule import cosine, ramp
from multicrop.probes.collapse import Watch
from multicrop.probes.features import features
from multicrop.probes.knn import knn
from multicrop.registry import backbone, find, source
from multicrop.ssl.crops import Crops, MultiCrop
from multicrop.ssl.encoder import Encoder, check_sizes
from multicrop.ssl.head import Head
from multicrop.ssl.teacher import follow, teacher_of

FEW_STEPS = (
    500  # a rule of thumb: a run this short is a trial, and its features are next to random ones
)


def run(r: Recipe) -> dict:
    device = ranks.start(r.device)
    cast = autocast_type(r.precision, device)
    if r.deterministic:
        repeatable(device)
    r = shorten(r)
    with Interrupt() as interrupt:
        # Names, networks and the run folder: what is wrong with them is said before a long decoding.
        source(r.dataset)
        nets, run = build(r, 3, device), Run(r.output_dir, r)

        # Data: uint8 images; their order is a function of (seed, epoch), their crops of (seed, step).
        images, test = load(r)
        channels = images.pixels.shape[1]
        nets = nets if channels == 3 else build(r, channels, device)
        batches = Batches(
            images.pixels, None, r.batch_size_per_gpu, seed=r.seed, device=device,
            accumulate=r.accumulate, rank=ranks.rank(), world=ranks.world(),
        )  # fmt: skip
        crop = MultiCrop(**r.crop_options(), mean=images.mean, std=images.std)
        per_epoch = batches.steps_per_epoch
        steps = r.epochs * per_epoch

        # An earlier state of the networks, where the run folder holds one.
        lengths = {
            "global_batch": batches.total,
            "images": len(images),
            "steps_per_epoch": per_epoch,
        }
        lengths |= fingerprint(images)
        start = run.resume(nets, **lengths)
        announce(r, nets, batches, len(images), device)
        run.open(start)
        about, watch = description(r, nets, images) | lengths, watching(r, run.rows())
        accuracy = {"knn_top1": found} if (found := run.latest("knn_top1")) is not None else {}

        # The loop.
        loop = Loop(
            interrupt, device, start=start, steps=steps, stop=r.max_steps, per_epoch=per_epoch, images=batches.total,
            log_freq=r.log_freq, save_steps=r.save_steps, loss=run.latest("loss"),
        )  # fmt: skip
        for step in loop.steps():
            rates = rates_at(r, step, steps, per_epoch, batches.total)
            parts = loop.progress.waiting(views(batches, crop, r.seed, step))
            seen = update(nets, parts, rates, r.clip_grad, r.accumulate, cast, (r.seed, step))
            now = loop.end(seen.loss, None if nets.scaler.is_enabled() else seen.grad_norm)
            if now.logs:
                numbers = look(watch, nets, seen, loop.loss, cast)
                run.log(
                    now.done,
                    epoch=now.epochs,
                    loss=loop.loss,
                    **rates._asdict(),
                    **numbers,
                    **loop.speed(),
                )
            if test is not None and now.every(r.knn_freq):
                accuracy = online_knn(nets.teacher.backbone, images, test, r, device, cast)
                run.log(now.done, **accuracy)
            if now.saves:
                save(
                    run,
                    r,
                    now,
                    {**about, "step": now.done, "epoch": now.epochs, **nets.state()},
                    now.done == steps,
                )
            if now.ended or now.final:
                report(
                    r, now.epochs, {"loss": loop.loss, **accuracy, **loop.progress.latest}, watch
                )
        run.close()
    return {
        **loop.result(),
        **accuracy,
        "checkpoint": str(run.newest),
        "output_dir": str(run.folder),
    }


# Data


def shorten(r: Recipe) -> Recipe:
    r, lines = r.shortened()
    for line in lines:
        ranks.say(line)
    return r


def load(r: Recipe):
    """The training images, and the test images if the online k-NN wants them and the data set has labels."""
    data = source(r.dataset)
    options = LoadOptions(r.source_size or 2 * r.image_size, r.download, r.stream, r.workers)
    with ranks.first_on_node():
        images = data.load(r.datapath, "train", options)
        test = (
            data.load(r.datapath, "test", options)
            if r.knn_freq and images.labels is not None
            else None
        )
    if r.knn_freq and test is None:
        ranks.say(f"no online k-NN: {r.dataset} has no labels")
    return images, test


def views(batches: Batches, crop: MultiCrop, seed: int, step: int) -> Iterator[Crops]:
    """The crops of each accumulation step: parameters are drawn for the global batch, then cut to this rank's place."""
    drawn = None
    for batch in batches.step(step):
        if drawn is None:
            drawn = crop.draw(
                batches.total, *batch.images.shape[-2:], seeds.generator(seed, "crops", step)
            )
        yield crop(batch.images, drawn[batch.place])


# Networks


@dataclass
class Networks:
    student: Encoder
    teacher: Encoder
    learner: (
        nn.Module
    )  # the student as the loop calls it: compiled, gradients averaged over the ranks
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    PARTS: ClassVar = ("student", "teacher", "objective", "optimizer", "scaler")

    def state(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load_state(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])


def description(r: Recipe, nets: Networks, images) -> dict:
    """What a checkpoint says about itself. Its backbone can be rebuilt at any image size: a patch size that followed
    from this run's is written down."""
    body = nets.student.backbone
    patch = getattr(body, "patch_size", None)
    options = (
        r.backbone()
        | ({"patch_size": patch} if patch else {})
        | {"in_channels": images.pixels.shape[1]}
    )
    about = {name: [*getattr(images, name)] for name in ("classes", "mean", "std")}
    return {"kind": "ssl", "backbone": options, "data": {"dataset": r.dataset, **about}}


def build(r: Recipe, channels: int, device: torch.device) -> Networks:
    seeds.reseed(r.seed, "weights")
    body = backbone(**r.backbone(), in_channels=channels)
    check_sizes(
        body, channels, r.image_size, *([r.image_size // 2] if r.local_crops_number else [])
    )
    if r.mlp_head_in not in (None, body.dim):
        raise ValueError(
            f"--mlp_head_in {r.mlp_head_in}, but {r.arch} gives {body.dim} features: leave the flag out"
        )
    head = Head(
        body.dim, r.out_dim, hidden=r.head_hidden_dim, bottleneck=r.head_bottleneck_dim,
        batch_norm=r.use_bn_in_head, norm_last_layer=r.norm_last_layer,
    )  # fmt: skip
    student = ranks.synchronised_norms(Encoder(body, head).to(device), device)
    teacher = teacher_of(student, r.teacher_drop_path)
    objective = (
        find("ssl.objectives", r.objective)
        .Objective(r.out_dim, r.student_temp, r.center_momentum)
        .to(device)
    )
    if r.compile:
        student.compile(dynamic=False)  # one graph per crop size
        teacher.compile(dynamic=False)
    optimizer = optim.build(r.optimizer, optim.groups(student))
    scaler = torch.amp.GradScaler(device.type, enabled=r.precision == "fp16")
    return Networks(student, teacher, ranks.wrap(student, device), objective, optimizer, scaler)


# The step


class Rates(NamedTuple):
    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float
    frozen: bool  # the prototypes stay as they are


def rates_at(r: Recipe, step: int, steps: int, per_epoch: int, total: int) -> Rates:
    epoch, peak = step // per_epoch, r.lr * total / 256
    return Rates(
        lr=cosine(step, steps, peak, r.min_lr, warmup=r.warmup_epochs * per_epoch),
        weight_decay=cosine(step, steps, r.weight_decay, r.weight_decay_end),
        momentum=cosine(step, steps, r.momentum_teacher, 1.0),
        teacher_temp=ramp(
            epoch, r.warmup_teacher_temp_epochs, r.warmup_teacher_temp, r.teacher_temp
        ),
        frozen=epoch < r.freeze_last_layer,
    )


class Seen(NamedTuple):
    """What one step leaves to look at."""

    loss: Tensor  # nats, this rank's mean
    grad_norm: Tensor
    targets: Tensor  # (G, B, K) probabilities of the last accumulation step
    globals: Tensor  # (G, B, C, H, W) its global crops


def update(
    nets: Networks,
    parts: Iterable[Crops],
    rates: Rates,
    clip: float,
    count: int,
    cast: torch.dtype | None,
    key: tuple,
) -> Seen:
    """One optimizer step over `count` accumulation steps, then the teacher and the centre follow."""
    optim.set_rates(nets.optimizer, rates.lr, rates.weight_decay)
    nets.optimizer.zero_grad()
    losses, means = [], []
    for part, crops in enumerate(parts):
        seeds.reseed(*key, "drop", part * ranks.world() + ranks.rank())
        with (
            ranks.accumulating(nets.learner, last=part == count - 1),
            torch.autocast(crops.globals.device.type, cast, enabled=cast is not None),
        ):
            with torch.no_grad():
                logits = nets.teacher(crops.globals)
                targets = nets.objective.targets(logits, rates.teacher_temp)
            loss = nets.objective(nets.learner(crops.globals, crops.locals), targets)
            nets.scaler.scale(loss / count).backward()
        losses.append(loss.detach())
        means.append(logits.float().mean((0, 1)))
    nets.scaler.unscale_(nets.optimizer)
    norm = optim.clip_each(nets.student.parameters(), clip)
    if rates.frozen:
        for parameter in nets.student.head.last_layer.parameters():
            parameter.grad = None
    nets.scaler.step(nets.optimizer)
    nets.scaler.update()
    follow(nets.teacher, nets.student, rates.momentum)
    nets.objective.recentre(ranks.mean(torch.stack(means).mean(0)))
    return Seen(torch.stack(losses).mean(), norm, targets, crops.globals)


# What people see


def announce(
    r: Recipe, nets: Networks, batches: Batches, images: int, device: torch.device
) -> None:
    """The numbers that follow from the recipe, each with its reason."""
    weights = sum(p.numel() for p in nets.student.parameters())
    total, per_epoch = batches.total, batches.steps_per_epoch
    for line in (
        f"{images} images of {r.dataset}, {per_epoch} steps per epoch = {images} // {total}, {r.epochs} epochs",
        f"global batch {total} = {r.batch_size_per_gpu} images x {ranks.world()} ranks x {r.accumulate} accumulated",
        f"peak learning rate {r.lr * total / 256:g} = {r.lr:g} x {total} / 256, after {r.warmup_epochs} epochs",
        f"{r.arch}: {weights:,} weights with the head; crops 2 x {r.image_size} px, "
        f"{r.local_crops_number} x {r.image_size // 2} px; ln K = {log(r.out_dim):.2f} nats",
        f"{device.type}, {r.precision} precision, run folder {r.output_dir}",
    ):
        ranks.say(line)
    if per_epoch * r.epochs < FEW_STEPS:
        ranks.say(
            f"warning: {per_epoch * r.epochs} steps in all are few, self-distillation takes some thousands: "
            "raise --epochs, or lower --batch_size_per_gpu"
        )


def look(
    watch: Watch, nets: Networks, seen: Seen, loss: float, cast: torch.dtype | None
) -> dict[str, float]:
    """Collapse statistics of the step's last crops, from this rank."""
    crops = seen.globals[0]
    found = features(nets.teacher.backbone, crops, lambda x: x, len(crops), crops.device, cast)
    return {**watch.look(loss, seen.targets, found), "grad_norm": seen.grad_norm.item()}


def watching(r: Recipe, rows: list[dict]) -> Watch:
    """The watch for collapse, with what the run logged before it was resumed."""
    tenth = r.epochs / 10
    warm = r.warmup_teacher_temp_epochs
    watch = Watch(
        r.out_dim,
        early=max(1, min(warm, tenth)),
        warm=warm,
        late=max(warm, r.warmup_epochs) + max(1, tenth),
    )
    watch.recall(rows)
    return watch


def report(r: Recipe, epochs: float, numbers: dict[str, float], watch: Watch) -> None:
    """A line for people at an epoch's end, and another where the run shows signs of collapse."""
    ranks.say(
        f"epoch {epochs:g}/{r.epochs}: "
        + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    )
    warning = watch.warning(epochs)
    if warning:
        ranks.say(f"warning: {warning}")


def save(run: Run, r: Recipe, now: Now, state: dict, whole: bool) -> None:
    """Replace the newest checkpoint, and at some epochs' ends and the end of the whole run keep one for good."""
    run.save(state)
    if now.ended and r.saveckp_freq and (now.epoch % r.saveckp_freq == 0 or whole):
        run.keep(state, f"checkpoint{now.epoch:04d}.pt")


def online_knn(
    network: nn.Module, images, test, r: Recipe, device: torch.device, cast
) -> dict[str, float]:
    """k-NN accuracy of the teacher's features on the test images, in percent; the ranks share the work."""
    transform = EvalTransform(r.image_size, images.mean, images.std)

    def bank(split, every: int) -> tuple[Tensor, Tensor]:
        """Features and labels of every so many images, on all ranks."""
        mine = torch.arange(0, len(split), every)[ranks.rank() :: ranks.world()]
        found = features(network, split.pixels, transform, 256, device, cast, chosen=mine)
        return ranks.gather(found), ranks.gather(split.labels[mine])

    every = -(-len(images) // r.knn_images)
    found = knn(*bank(images, every), *bank(test, 1), k=(20,), classes=len(images.classes))
    ((top1, _),) = found.values()
    return {"knn_top1": top1}


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
