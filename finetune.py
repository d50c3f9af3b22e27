"""Stage two: train a classifier from a pretrained backbone, or from scratch, or evaluate one.

    python finetune.py --pretrained_weights runs/ssl          # the embedded data set on this machine
    python finetune.py --scratch
    python finetune.py --eval --pretrained_weights runs/finetune/best.pt
    torchrun --nproc-per-node 2 finetune.py --dataset CIFAR10 --datapath data --pretrained_weights runs/ssl

Weights -> images -> augmented, mixed batches -> classifier -> objective -> optimizer -> accuracies. Every flag:
supervised/recipe.py.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from multicrop import checkpoint, cli, optim, pretrained, ranks, seeds
from multicrop.augment.evaluation import EvalTransform
from multicrop.batches import Batches
from multicrop.find import backbone, find
from multicrop.guard import Guard
from multicrop.interrupt import Interrupt
from multicrop.precision import autocast_type
from multicrop.pretrained import File
from multicrop.probes.features import features
from multicrop.progress import Progress
from multicrop.run import Run
from multicrop.schedule import cosine
from multicrop.supervised import mixing, validation
from multicrop.supervised.augmentation import TrainTransform
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.mixing import Mixed, Mixing
from multicrop.supervised.recipe import Recipe

BEST = "best.pt"


def finetune(r: Recipe) -> dict:
    device = ranks.start(r.device)
    cast = autocast_type(r.precision, device)
    file = read(r)
    if r.eval:
        return evaluate(r, file, device, cast)
    r = shorten(r)

    # Data: uint8 images; their order is a function of (seed, epoch), their augmentation and mixing of (seed, step).
    data = load(r, file)
    batches = Batches(
        data.train.pixels, data.train.labels, r.share(ranks.world()), seed=r.seed, device=device, passes=r.ra,
        subset=data.chosen, accumulate=r.accumulate, rank=ranks.rank(), world=ranks.world(),
    )  # fmt: skip
    augment = r.augmentation(data.entry, data.backbone["image_size"], data.train.mean, data.train.std)
    per_epoch = batches.steps_per_epoch
    steps = r.epochs * per_epoch
    last = min(steps, r.max_steps or steps)

    # Network, and the run folder, which may hold an earlier state of it.
    nets = build(r, file, data, device)
    run = Run(r.output_dir, r)
    start = run.resume(nets, batches.total)
    announce(r, nets, batches, data, device)
    run.open(start)
    about = description(r, data) | {"global_batch": batches.total, "steps_per_epoch": per_epoch}
    measure = partial(accuracy, nets, EvalTransform(augment.size, data.train.mean, data.train.std), device, cast)

    # The loop.
    pulse = 1 if device.type == "cpu" else r.log_freq  # reading a GPU's numbers waits for it, so seldom
    progress, guard = Progress(last, start, batches.total), Guard()
    done, stop, loss, seen = start, False, None, {}
    with Interrupt() as interrupt:
        for step in range(start, last):
            lr = cosine(step, steps, r.lr, r.min_lr, r.warmup * per_epoch, floor=r.min_lr, plateau=False)
            parts = progress.waiting(mixed(batches, augment, r.mixing(), r.seed, step))
            step_loss, train_top1 = update(nets, parts, r, lr, step, cast)
            guard.add(step, step_loss)
            progress.step()

            done, final = step + 1, step + 1 == last
            epoch, ended = done // per_epoch, done % per_epoch == 0
            logs, saves = final or done % r.log_freq == 0, final or ended or done % r.save_steps == 0
            if logs or saves or done % pulse == 0:
                stop, loss = guard.check(interrupt.asked)
            if logs:
                top1 = ranks.mean(train_top1).item()
                run.log(done, epoch=done / per_epoch, loss=loss, train_top1=top1, lr=lr, **progress.speed())
                progress.show(loss=loss, **progress.latest)
            if final or (ended and epoch % r.eval_freq == 0):
                seen = measure(*data.watched())
                run.log(done, epoch=done / per_epoch, **seen)
            if saves or stop:
                better = ended and nets.improve(seen.get("val_top1"), epoch)
                state = {**about, "step": done, "epoch": done / per_epoch, **nets.state()}
                if better:
                    run.keep(state, BEST)
                run.save(state)
            if ended or final:
                report(done / per_epoch, r, {"loss": loss, **seen, **progress.latest})
            if stop:
                break
    progress.close()
    if stop and done < last:
        status, accuracies = "interrupted", {}
        ranks.say(f"stopped by a signal after step {done}: the same command resumes it")
    else:
        status, accuracies = "finished", conclude(measure, nets, run, data)
        run.log(done, **accuracies)
    run.close()
    return {
        "status": status, "step": done, "epoch": done / per_epoch, "loss": loss, **accuracies, **progress.total(),
        "output_dir": str(run.folder), "checkpoint": str(run.newest),
        "best": str(run.folder / BEST) if nets.best else None,
    }  # fmt: skip


# Weights


def read(r: Recipe) -> File:
    """The file of --pretrained_weights, or with --eval alone the run's newest checkpoint; nothing with --scratch."""
    r.check_start()
    if r.scratch:
        return File()
    return pretrained.read(r.pretrained_weights or r.output_dir, r.checkpoint_key, r.trust_checkpoint)


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

    def watched(self) -> tuple[str, Tensor, Tensor]:
        """What to look at after an epoch: the validation images, or without them the test images."""
        if len(self.held):
            return "val", self.train.pixels[self.held], self.train.labels[self.held]
        return "test", self.test.pixels, self.test.labels


def load(r: Recipe, file: File) -> Data:
    described = file.about.get("backbone", {})
    entry, images = source(r, described)
    with ranks.first_on_node():
        train = images("train")
        if train.labels is None:
            raise ValueError(f"--dataset {r.dataset} has no labels, and a classifier needs them: use image_folder")
        test = images("test")
    chosen, held = validation.split(train.labels, r.val_fraction, seeds.generator(r.seed, "validation"))
    options = r.backbone(described, train.pixels.shape[-1], train.pixels.shape[1])
    return Data(entry, train, test, chosen, held, options)


def source(r: Recipe, described: dict) -> tuple[str, Callable]:
    """The name of the data set's file in datasets/, and a function from a split to its images."""
    module = find("datasets", r.dataset)
    size = r.source_size or r.image_size or described.get("image_size") or 64
    load_split = partial(module.load, r.datapath, source_size=size, download=r.download)
    return module.__name__.rpartition(".")[2], load_split


def mixed(batches: Batches, augment: TrainTransform, mix: Mixing, seed: int, step: int) -> Iterator[Mixed]:
    """The images of each accumulation step; what is done to them is drawn for the global batch, then cut by rank."""
    random = seeds.generator(seed, "augment", step)
    drawn = augment.draw(batches.total, random)
    drawn_mix = mix.draw(augment.size, augment.size, random)
    for batch in batches.step(step):
        yield mixing.apply(augment(batch.images, drawn[batch.place]), batch.labels, drawn_mix)


# Network


@dataclass
class Networks:
    model: Classifier
    learner: nn.Module  # the model as the loop calls it: compiled, gradients averaged over the ranks
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    best: dict = field(default_factory=dict)  # validation accuracy and epoch of the selected weights

    PARTS: ClassVar = ("model", "optimizer", "scaler")

    def state(self) -> dict:
        return {**{name: getattr(self, name).state_dict() for name in self.PARTS}, "best": dict(self.best)}

    def load_state(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.best = state["best"]

    def improve(self, top1: float | None, epoch: int) -> bool:
        """Whether a validation accuracy is better than all before it; remembered if so."""
        better = top1 is not None and top1 > self.best.get("val_top1", -1.0)
        if better:
            self.best = {"val_top1": top1, "epoch": epoch}
        return better


def build(r: Recipe, file: File, data: Data, device: torch.device) -> Networks:
    seeds.reseed(r.seed, "weights")
    model = Classifier(backbone(**data.backbone), len(data.train.classes))
    if file.path:
        pretrained.fill(model.backbone, file, data.backbone["arch"])
    model = ranks.synchronised_norms(model.to(device), device)
    if r.compile:
        model.compile()
    objective = find("supervised.objectives", r.objective).Objective(r.smoothing if r.ls else 0.0)
    optimizer = optim.build("adamw", [{"params": [p for p in model.parameters() if p.requires_grad], "decays": True}])
    scaler = torch.amp.GradScaler(device.type, enabled=r.precision == "fp16")
    return Networks(model, ranks.wrap(model, device), objective, optimizer, scaler)


def description(r: Recipe, data: Data) -> dict:
    """What a checkpoint says about itself."""
    about = {name: [*getattr(data.train, name)] for name in ("classes", "mean", "std")}
    return {"kind": "finetune", "backbone": data.backbone, "data": {"dataset": r.dataset, **about}}


# The step


def update(
    nets: Networks, parts: Iterable[Mixed], r: Recipe, lr: float, step: int, cast: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """One optimizer step over all accumulation steps: this rank's loss in nats and train top-1 in percent."""
    optim.set_rates(nets.optimizer, lr, r.weight_decay)
    nets.optimizer.zero_grad()
    losses, right = [], []
    for part, batch in enumerate(parts):
        seeds.reseed(r.seed, step, "drop", part * ranks.world() + ranks.rank())
        with (
            ranks.accumulating(nets.learner, last=part == r.accumulate - 1),
            torch.autocast(batch.images.device.type, cast, enabled=cast is not None),
        ):
            logits = nets.learner(batch.images)
            loss = nets.objective(logits, batch.labels, batch.partners, batch.share)
            nets.scaler.scale(loss / r.accumulate).backward()
        losses.append(loss.detach())
        right.append((logits.argmax(1) == batch.labels).float().mean() * 100)
    nets.scaler.step(nets.optimizer)
    nets.scaler.update()
    return torch.stack(losses).mean(), torch.stack(right).mean()


# Accuracies


@torch.no_grad()
def accuracy(
    nets: Networks, transform: EvalTransform, device: torch.device, cast, name: str, pixels: Tensor, labels: Tensor
) -> dict[str, float]:
    """Loss in nats and top-1 and top-5 accuracy in percent, names beginning with `name`; the ranks share the work."""
    mine = slice(ranks.rank(), None, ranks.world())
    logits = ranks.gather(features(nets.model, pixels[mine], transform, 256, device, cast))
    labels = ranks.gather(labels[mine]).to(device)
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    top1, top5 = (round(hit.double().mean().item() * 100, 3) for hit in (hits[:, 0], hits.any(1)))
    return {f"{name}_loss": nets.objective(logits, labels).item(), f"{name}_top1": top1, f"{name}_top5": top5}


def conclude(measure: Callable, nets: Networks, run: Run, data: Data) -> dict[str, float]:
    """Test accuracy of the last weights, then of those that the validation images selected."""
    found = measure("test", data.test.pixels, data.test.labels)
    ranks.say(f"after the last epoch: test top-1 {found['test_top1']:.2f}, top-5 {found['test_top5']:.2f}")
    if nets.best:
        nets.model.load_state_dict(ranks.share(lambda: checkpoint.load(run.folder / BEST)["model"]))
        best = measure("selected_test", data.test.pixels, data.test.labels)
        found |= best | {"selected_epoch": nets.best["epoch"], "selected_val_top1": nets.best["val_top1"]}
        ranks.say(
            f"epoch {nets.best['epoch']}, selected by its validation top-1 {nets.best['val_top1']:.2f}: "
            f"test top-1 {best['selected_test_top1']:.2f}, top-5 {best['selected_test_top5']:.2f}"
        )
    return found


def evaluate(r: Recipe, file: File, device: torch.device, cast: torch.dtype | None) -> dict:
    """The test accuracy of a finetuned checkpoint, and nothing else."""
    if not file.head:
        raise ValueError(f"{file.path} has no classifier, it was not finetuned: without --eval it is finetuned")
    described = file.about.get("backbone", {})
    with ranks.first_on_node():
        test = source(r, described)[1]("test")
    classes = len(file.head["weight"])
    if classes != len(test.classes):
        raise ValueError(f"{file.path} tells {classes} classes apart, but {r.dataset} has {len(test.classes)}")
    options = r.backbone(described, test.pixels.shape[-1], test.pixels.shape[1])
    model = Classifier(backbone(**options), classes)
    pretrained.fill(model.backbone, file, options["arch"], whole=True)
    model.head.load_state_dict(file.head)
    objective = find("supervised.objectives", r.objective).Objective(r.smoothing if r.ls else 0.0)
    nets = Networks(model.to(device), model, objective, None, None)
    norm = file.about.get("data", {"mean": test.mean, "std": test.std})
    transform = EvalTransform(options["image_size"], norm["mean"], norm["std"])
    progress = Progress(1, 0, len(test))
    found = accuracy(nets, transform, device, cast, "test", test.pixels, test.labels)
    progress.step()
    ranks.say(f"test top-1 {found['test_top1']:.2f}, top-5 {found['test_top5']:.2f} of {file.path}")
    return {"status": "finished", **found, **progress.total(), "checkpoint": str(file.path)}


# What people see


def shorten(r: Recipe) -> Recipe:
    r, lines = r.shortened()
    for line in lines:
        ranks.say(line)
    return r


def announce(r: Recipe, nets: Networks, batches: Batches, data: Data, device: torch.device) -> None:
    """The numbers that follow from the recipe, each with its reason."""
    total, per_epoch = batches.total, batches.steps_per_epoch
    count = sum(p.numel() for p in nets.model.parameters())
    policy, flips = r.policy(data.entry) or "no", r.flips(data.entry)
    for line in (
        f"{len(data.chosen)} images of {r.dataset} in {len(data.train.classes)} classes, {len(data.held)} held out for "
        f"validation, {len(data.test)} test images",
        f"{per_epoch} steps per epoch = {r.ra} passes x {len(data.chosen)} // {total}, {r.epochs} epochs",
        f"global batch {total} = {batches.size} images x {ranks.world()} ranks x {r.accumulate} parts",
        f"peak learning rate {r.lr:g} after {r.warmup} epochs; it does not depend on the batch",
        f"{data.backbone['arch']}: {count:,} weights with the classifier; images {data.backbone['image_size']} px, "
        f"flips {flips:g}, {policy} AutoAugment policy, erasing {r.re:g}",
        f"{device.type}, {r.precision} precision, run folder {r.output_dir}",
    ):
        ranks.say(line)


def report(epoch: float, r: Recipe, numbers: dict[str, float]) -> None:
    """A line for people at an epoch's end."""
    ranks.say(f"epoch {epoch:g}/{r.epochs}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


def main() -> None:
    cli.main(Recipe, finetune)


if __name__ == "__main__":
    main()
