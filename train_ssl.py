"""Stage one: pretrain a backbone on unlabelled images by multi-crop self-distillation (DINO).

    python train_ssl.py                                       # the embedded data set on this machine
    torchrun --nproc-per-node 2 train_ssl.py --arch vit --dataset CIFAR10 --datapath data --download

Images -> crops -> student and teacher -> objective -> optimizer -> checkpoint. Every flag: ssl/recipe.py.
B images, G global and L local crops, V = G + L views, K prototypes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import ClassVar, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import cli, optim, ranks, seeds
from multicrop.augment.evaluation import EvalTransform
from multicrop.batches import Batches
from multicrop.find import backbone, find
from multicrop.guard import Guard
from multicrop.interrupt import Interrupt
from multicrop.precision import autocast_type
from multicrop.probes.collapse import Watch
from multicrop.probes.features import features
from multicrop.probes.knn import knn
from multicrop.progress import Progress
from multicrop.run import Run
from multicrop.schedule import cosine, ramp
from multicrop.ssl.crops import Crops, MultiCrop
from multicrop.ssl.encoder import Encoder, check_sizes
from multicrop.ssl.head import Head
from multicrop.ssl.recipe import Recipe
from multicrop.ssl.teacher import follow, teacher_of


def train(r: Recipe) -> dict:
    device = ranks.start(r.device)
    cast = autocast_type(r.precision, device)
    r = shorten(r)

    # Data: uint8 images; their order is a function of (seed, epoch), their crops of (seed, step).
    images, test = load(r)
    batches = Batches(
        images.pixels, None, r.batch_size_per_gpu, seed=r.seed, device=device,
        accumulate=r.accumulate, rank=ranks.rank(), world=ranks.world(),
    )  # fmt: skip
    crop = MultiCrop(**r.crop_options(), mean=images.mean, std=images.std)
    per_epoch = batches.steps_per_epoch
    steps = r.epochs * per_epoch
    last = min(steps, r.max_steps or steps)

    # Networks, and the run folder, which may hold an earlier state of them.
    nets = build(r, images.pixels.shape[1], device)
    run = Run(r.output_dir, r)
    start = run.resume(nets, batches.total)
    announce(r, nets, batches, len(images), device)
    run.open(start)
    about = {
        "kind": "ssl", "backbone": {**described(r, nets.student.backbone), "in_channels": images.pixels.shape[1]},
        "data": {"dataset": r.dataset, "classes": [*images.classes], "mean": [*images.mean], "std": [*images.std]},
        "global_batch": batches.total, "steps_per_epoch": per_epoch,
    }  # fmt: skip

    # The loop.
    pulse = 1 if device.type == "cpu" else r.log_freq  # reading a GPU's numbers waits for it, so seldom
    progress, guard, watch = Progress(last, start, batches.total), Guard(), Watch(r.out_dim)
    done, stop, loss, accuracy = start, False, None, {}
    with Interrupt() as interrupt:
        for step in range(start, last):
            rates = rates_at(r, step, steps, per_epoch, batches.total)
            parts = progress.waiting(views(batches, crop, r.seed, step, device))
            seen = update(nets, parts, rates, r.clip_grad, r.accumulate, cast, (r.seed, step))
            guard.add(step, seen.loss)
            progress.step()

            done, final = step + 1, step + 1 == last
            epoch, ended = done // per_epoch, done % per_epoch == 0
            logs, saves = final or done % r.log_freq == 0, final or ended or done % r.save_steps == 0
            if logs or saves or done % pulse == 0:
                stop, loss = guard.check(interrupt.asked)
            if logs:
                numbers = look(watch, nets, seen, loss, cast)
                run.log(done, epoch=done / per_epoch, loss=loss, **rates._asdict(), **numbers, **progress.speed())
                progress.show(loss=loss, **progress.latest)
            if test is not None and r.knn_freq and (final or (ended and epoch % r.knn_freq == 0)):
                accuracy = online_knn(nets.teacher.backbone, images, test, r, device, cast)
                run.log(done, **accuracy)
            if saves or stop:
                state = {**about, "step": done, "epoch": done / per_epoch, **nets.state()}
                run.save(state)
                if ended and r.saveckp_freq and (epoch % r.saveckp_freq == 0 or done == steps):
                    run.keep(state, f"checkpoint{epoch:04d}.pt")
            if ended or final:
                report(done / per_epoch, r, loss, accuracy, progress, watch)
            if stop:
                break
    progress.close()
    run.close()
    interrupted = stop and done < last
    if interrupted:
        ranks.say(f"stopped by a signal after step {done}: the same command resumes it")
    return {
        "status": "interrupted" if interrupted else "finished", "step": done, "epoch": done / per_epoch, "loss": loss,
        **accuracy, **progress.total(), "checkpoint": str(run.newest), "output_dir": str(run.folder),
    }  # fmt: skip


# Data


def shorten(r: Recipe) -> Recipe:
    r, lines = r.shortened()
    for line in lines:
        ranks.say(line)
    return r


def load(r: Recipe):
    """The training images, and the test images if the online k-NN wants them and the data set has labels."""
    find("models", r.arch.partition(":")[0])  # a wrong name is said before a long decoding
    source = find("datasets", r.dataset)
    options = {"source_size": r.source_size or 2 * r.image_size, "download": r.download}
    with ranks.first_on_node():
        images = source.load(r.datapath, "train", **options)
        test = source.load(r.datapath, "test", **options) if r.knn_freq and images.labels is not None else None
    if r.knn_freq and test is None:
        ranks.say(f"no online k-NN: {r.dataset} has no labels")
    return images, test


def views(batches: Batches, crop: MultiCrop, seed: int, step: int, device: torch.device) -> Iterator[Crops]:
    """The crops of each accumulation step: parameters are drawn for the global batch, then cut to this rank's place."""
    drawn = None
    for batch in batches.step(step):
        if drawn is None:
            drawn = crop.draw(batches.total, *batch.images.shape[-2:], seeds.generator(seed, "crops", step))
        yield crop(batch.images, drawn[batch.place])


# Networks


@dataclass
class Networks:
    student: Encoder
    teacher: Encoder
    learner: nn.Module  # the student as the loop calls it: compiled, gradients averaged over the ranks
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    PARTS: ClassVar = ("student", "teacher", "objective", "optimizer", "scaler")

    def state(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load_state(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])


def described(r: Recipe, body: nn.Module) -> dict:
    """What rebuilds the backbone at any image size: a patch size that followed from this run's is written down."""
    patch = getattr(body, "patch_size", None)
    return r.backbone() | ({"patch_size": patch} if patch else {})


def build(r: Recipe, channels: int, device: torch.device) -> Networks:
    seeds.reseed(r.seed, "weights")
    body = backbone(**r.backbone(), in_channels=channels)
    check_sizes(body, channels, r.image_size, *([r.image_size // 2] if r.local_crops_number else []))
    if r.mlp_head_in not in (None, body.dim):
        raise ValueError(f"--mlp_head_in {r.mlp_head_in}, but {r.arch} gives {body.dim} features: leave the flag out")
    head = Head(
        body.dim, r.out_dim, hidden=r.head_hidden_dim, bottleneck=r.head_bottleneck_dim,
        batch_norm=r.use_bn_in_head, norm_last_layer=r.norm_last_layer,
    )  # fmt: skip
    student = ranks.synchronised_norms(Encoder(body, head).to(device), device)
    teacher = teacher_of(student, r.teacher_drop_path)
    objective = find("ssl.objectives", r.objective).Objective(r.out_dim, r.student_temp, r.center_momentum).to(device)
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
        teacher_temp=ramp(epoch, r.warmup_teacher_temp_epochs, r.warmup_teacher_temp, r.teacher_temp),
        frozen=epoch < r.freeze_last_layer,
    )


class Seen(NamedTuple):
    """What one step leaves to look at."""

    loss: Tensor  # nats, this rank's mean
    grad_norm: Tensor
    targets: Tensor  # (G, B, K) probabilities of the last accumulation step
    globals: Tensor  # (G, B, C, H, W) its global crops


def update(
    nets: Networks, parts: Iterable[Crops], rates: Rates, clip: float, count: int, cast: torch.dtype | None, key: tuple
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


def announce(r: Recipe, nets: Networks, batches: Batches, images: int, device: torch.device) -> None:
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


def look(watch: Watch, nets: Networks, seen: Seen, loss: float, cast: torch.dtype | None) -> dict[str, float]:
    """Collapse statistics of the step's last crops, from this rank."""
    crops = seen.globals[0]
    found = features(nets.teacher.backbone, crops, lambda x: x, len(crops), crops.device, cast)
    return {**watch.look(loss, seen.targets, found), "grad_norm": seen.grad_norm.item()}


def report(epoch: float, r: Recipe, loss: float, accuracy: dict, progress: Progress, watch: Watch) -> None:
    """A line for people at an epoch's end; from the end of the temperature's warm-up on also signs of collapse."""
    numbers = {"loss": loss, **accuracy, **progress.latest}
    ranks.say(f"epoch {epoch:g}/{r.epochs}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    warning = watch.warning() if epoch >= r.warmup_teacher_temp_epochs else None
    if warning:
        ranks.say(f"warning: {warning}")


def online_knn(network: nn.Module, images, test, r: Recipe, device: torch.device, cast) -> dict[str, float]:
    """k-NN accuracy of the teacher's features on the test images, in percent; the ranks share the work."""
    every = -(-len(images) // r.knn_images)
    transform = EvalTransform(r.image_size, images.mean, images.std)

    def embed(pixels: Tensor) -> Tensor:
        mine = pixels[ranks.rank() :: ranks.world()]
        return ranks.gather(features(network, mine, transform, 256, device, cast))

    def labels(values: Tensor) -> Tensor:
        return ranks.gather(values[ranks.rank() :: ranks.world()])

    train, train_labels = embed(images.pixels[::every]), labels(images.labels[::every])
    found = knn(train, train_labels, embed(test.pixels), labels(test.labels), k=(20,), classes=len(images.classes))
    ((top1, _),) = found.values()
    return {"knn_top1": top1}


def main() -> None:
    cli.main(Recipe, train)


if __name__ == "__main__":
    main()
