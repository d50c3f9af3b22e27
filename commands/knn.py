"""Probe: weighted k-NN accuracy of frozen features, of one checkpoint, of many, or of all that a run has kept.

    python eval_knn.py runs/ssl                               # the curve over a run
    python eval_knn.py runs/a/checkpoint.pt runs/b --random_weights --nb_knn 10 20
    torchrun --nproc-per-node 2 eval_knn.py runs/ssl --dataset CIFAR10 --datapath data

Checkpoints -> images -> backbone -> features of both splits -> votes of the neighbours. Every flag: config/knn.py.
N images, D width.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
from safetensors.torch import save as as_safetensors
from torch import Tensor

from multicrop import cli
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _images
from multicrop.config.knn import Recipe
from multicrop.datasets._images import LoadOptions
from multicrop.engine import ranks, seeds
from multicrop.engine.precision import autocast_type
from multicrop.probes.features import features
from multicrop.probes.knn import knn
from multicrop.registry import backbone, check
from multicrop.weights import pretrained, series
from multicrop.weights.pretrained import File


def run(r: Recipe) -> dict:
    device = ranks.start(r.device)
    cast = autocast_type(r.precision, device)
    begun, busy, count, results = time.perf_counter(), 0.0, 0, []
    sets = set()
    for subject in subjects(r):
        sets.add(origin(r, subject)[0])
        if len(sets) > 1:
            raise ValueError(
                f"these checkpoints come from different data sets ({', '.join(sorted(sets))}): give --dataset"
            )
        # Data: uint8 images of both splits.
        dataset, folder, stored = origin(r, subject)
        train, test = load(dataset, folder, LoadOptions(stored, r.download, r.stream, r.workers))
        chosen = thin(len(train), r.max_train_images)

        # Features: every rank takes a stretch of the images. Then votes.
        network = build(subject, train.pixels.shape[1]).to(device)
        data = subject.file.about.get("data", {"mean": train.mean, "std": train.std})
        size, crop_pct = subject.backbone["image_size"], data.get("crop_pct")
        transform = EvalTransform(size, data["mean"], data["std"], crop_pct=crop_pct)
        start = time.perf_counter()
        found, wanted = (
            embed(network, split.pixels, which, transform, r.batch_size, device, cast)
            for split, which in ((train, chosen), (test, torch.arange(len(test))))
        )
        bank = {
            "train_features": found, "train_labels": train.labels[chosen],
            "test_features": wanted, "test_labels": test.labels,
        }  # fmt: skip
        results.append(row(subject, vote(r, subject, bank, len(train.classes))))
        busy, count = busy + time.perf_counter() - start, count + len(chosen) + len(test)
    show(
        r,
        results,
        f"{origin(r, subject)[0]}: {len(test)} test images among {len(chosen)} training images",
    )
    if r.save_features:
        save(bank, Path(r.save_features))
    return {
        "status": "finished", "results": results, "train_images": len(chosen), "test_images": len(test),
        "temperature": r.temperature, "features": r.save_features,
        "images_per_second": round(count / busy, 1), "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


# Networks


class Subject(NamedTuple):
    """A network to probe: a file's, or of random weights."""

    file: File
    backbone: dict  # arguments of find.backbone
    seed: int | None = None  # of the random weights


def subjects(r: Recipe) -> Iterator[Subject]:
    """The checkpoints' networks; if asked for, before each new architecture its random weights."""
    if not r.checkpoints:
        yield Subject(File(), describe(r, File()), r.seed or 0)
    known = []
    for file in series.read(r.checkpoints, r.checkpoint_key, r.trust_checkpoint):
        options = describe(r, file)
        if r.random_weights and options not in known:
            yield Subject(
                file,
                options,
                file.about.get("recipe", {}).get("seed", 0) if r.seed is None else r.seed,
            )
        known.append(options)
        yield Subject(file, options)


def describe(r: Recipe, file: File) -> dict:
    """Arguments of find.backbone: what the checkpoint says, else flags. ValueError where they contradict each other."""
    known = file.about.get("backbone", {})
    for name, value in r.stated().items():
        if known.get(name, value) != value:
            raise ValueError(
                f"--{name} {value}, but {file.path} was made with {known[name]}: leave the flag out"
            )
    options = {"arch": "vit", "image_size": 32, **r.stated(), **known}
    check(**{"in_channels": 3, **options})
    return options


def build(subject: Subject, channels: int) -> nn.Module:
    seeds.reseed(subject.seed or 0, "weights")
    network = backbone(**{"in_channels": channels, **subject.backbone})
    if subject.seed is None:
        pretrained.fill(network, subject.file, subject.backbone["arch"], whole=True)
    return network


# Data


def origin(r: Recipe, subject: Subject) -> tuple[str, str, int]:
    """Data set, its folder and the side at which image files are stored: flags first, then what the checkpoint says."""
    dataset, folder, stored = subject.file.origin(r.dataset, r.datapath, r.source_size)
    times = (
        1 if subject.file.about.get("kind") == "finetune" else 2
    )  # stage one cuts crops and so stores more
    return dataset, folder, stored or times * subject.backbone["image_size"]


load = lru_cache(maxsize=1)(_images.load_labelled)  # read once for all checkpoints that share them


def thin(images: int, most: int | None) -> Tensor:
    """Indices of at most so many images, spread evenly over the set."""
    count = min(images, most or images)
    return torch.arange(count) * images // count


# Features and votes


def embed(
    network: nn.Module,
    pixels: Tensor,
    chosen: Tensor,
    transform: EvalTransform,
    batch_size: int,
    device,
    cast,
) -> Tensor:
    """Of uint8 (M, C, S, S) those chosen (N,) -> features (N, D) on every rank; each has computed a stretch of them."""
    start, stop = (len(chosen) * rank // ranks.world() for rank in (ranks.rank(), ranks.rank() + 1))
    return ranks.gather(
        features(network, pixels, transform, batch_size, device, cast, chosen=chosen[start:stop])
    )


def vote(
    r: Recipe, subject: Subject, bank: dict[str, Tensor], classes: int
) -> dict[int, tuple[float, float]]:
    try:
        return ranks.share(
            lambda: knn(
                **bank, k=r.nb_knn, temperature=r.temperature, classes=classes, backend=r.backend
            )
        )
    except ValueError as error:
        raise ValueError(f"{subject.file.path}: {error}") from None


def save(bank: dict[str, Tensor], path: Path) -> None:
    """Features and labels of both splits, in the order of the data set."""
    if ranks.rank() != 0:
        return
    bank = {name: value.cpu().contiguous() for name, value in bank.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            if path.suffix == ".pt":
                torch.save(bank, file)
            else:
                file.write(as_safetensors(bank))
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(f"cannot write --save_features {path}: {error.strerror}") from None


# What people see


def row(subject: Subject, accuracy: dict[int, tuple[float, float]]) -> dict:
    about = subject.file.about if subject.seed is None else {"step": 0, "epoch": 0}
    name = (
        str(subject.file.path) if subject.seed is None else f"random weights, seed {subject.seed}"
    )
    found = {
        "checkpoint": name,
        "arch": subject.backbone["arch"],
        "step": about.get("step"),
        "epoch": about.get("epoch"),
    }
    return found | {
        f"top{n}": {str(k): round(both[i], 4) for k, both in accuracy.items()}
        for i, n in enumerate((1, 5))
    }


def show(r: Recipe, results: list[dict], title: str) -> None:
    """The table."""
    ks = list(results[0]["top1"])
    width = max(len(found["checkpoint"]) for found in results)
    if len(ks) < len(set(r.nb_knn)):
        ranks.say(f"--nb_knn is limited by the number of training images: using {', '.join(ks)}")
    ranks.say(f"top-1 (top-5) accuracy in percent, {title}")
    ranks.say(f"{'checkpoint':<{width}} {'epoch':>7}" + "".join(f"{f'k={k}':>17}" for k in ks))
    for found in results:
        cells = (f"{found['top1'][k]:.2f} ({found['top5'][k]:.2f})" for k in ks)
        epoch = "" if found["epoch"] is None else f"{found['epoch']:g}"
        ranks.say(
            f"{found['checkpoint']:<{width}} {epoch:>7}" + "".join(f"{cell:>17}" for cell in cells)
        )


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
