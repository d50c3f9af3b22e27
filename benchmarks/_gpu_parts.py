"""The parts of gpu_report: which rows each has, and the command that measures them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmarks import _gpu_kernels, _gpu_parity, _gpu_resume, _gpu_tests
from benchmarks._jobs import Words
from multicrop import registry

if TYPE_CHECKING:
    from benchmarks._gpu_report import Recipe

ARCHS = ("vit", "swin", "cait", "cct_7_3x1_32", "resnet56", "dhvt")
BATCHES = (256, 64)
WAYS = {"eager": ("false", "false"), "compiled": ("true", "false"), "graph": ("true", "true")}
"""--compile and --graph of a step."""
TINY_PARITY = ("resnet8", "cct_2_3x2_32")
SSL, FINETUNE = "recipes/gani2022_cifar10_vit_ssl.yaml", "recipes/gani2022_finetune.yaml"


@dataclass(frozen=True)
class Work:
    """Rows that one process measures, one after the other."""

    rows: tuple[str, ...]
    words: Callable[[tuple[str, ...]], Words]
    """Its command's words after `python`, for those of the rows that are not there yet."""
    seconds: float | None = 300
    """Longest for one row, the start of the process included; None: whatever time is left."""
    goes_on: bool = False
    """It saves what it has when it is stopped, and the next call goes on there."""
    after: str | None = None
    """The row of this part that must be finished before."""


def works(r: "Recipe", part: str, device: torch.device) -> list[Work]:
    """All of a part."""
    return PARTS[part](r, device)


def _streamed(r: "Recipe", module: str, rows: tuple[str, ...], seconds: float = 300) -> Work:
    """A program of ours that takes the names of rows."""

    def words(names: tuple[str, ...]) -> Words:
        return ("-m", f"benchmarks.{module}", *_common(r), "--rows", *names)

    return Work(rows, words, seconds)


def _common(r: "Recipe") -> Words:
    return ("--device", r.device, "--tiny", str(r.tiny).lower())


def _tests(r: "Recipe", device: torch.device) -> list[Work]:
    files = _gpu_tests.files()
    return [_streamed(r, "_gpu_tests", files[:1] if r.tiny else files)]


def _step(r: "Recipe", device: torch.device) -> list[Work]:
    products = _gpu_kernels.PRODUCTS
    if device.type == "cpu":  # some processors emulate bf16, for minutes
        products = tuple(name for name in products if name.endswith("fp32"))
    found = [_streamed(r, "_gpu_kernels", products)]
    if r.tiny:
        return [*found, _train_step(r, "resnet8", 4, "fp32", "eager")]
    for batch in BATCHES:
        for way in WAYS:
            if device.type == "cuda" or way != "graph":
                found += [_train_step(r, arch, batch, "auto", way) for arch in ARCHS]
    if device.type == "cuda":
        found += [
            _train_step(r, "vit", 256, precision, "compiled") for precision in ("tf32", "fp32")
        ]
    return found


def _train_step(r: "Recipe", arch: str, batch: int, precision: str, way: str) -> Work:
    name = f"{arch}, batch {batch}, {precision}, {way}"
    compiles, graph = WAYS[way]
    often = ("1", "1") if r.tiny else ("10", "5")
    words = (
        "-m", "benchmarks.train_step", "--device", r.device, "--arch", arch, "--batch_size", str(batch),
        "--precision", precision, "--compile", compiles, "--graph", graph, "--plain", "false", "--whole", "true",
        "--steps", often[0], "--repeats", often[1],
    )  # fmt: skip
    return Work((name,), lambda _: words)


def _sdpa(r: "Recipe", device: torch.device) -> list[Work]:
    shapes = _gpu_kernels.SHAPES
    return [_streamed(r, "_gpu_kernels", shapes[-1:] if r.tiny else shapes, seconds=120)]


def _parity(r: "Recipe", device: torch.device) -> list[Work]:
    return [_streamed(r, "_gpu_parity", TINY_PARITY if r.tiny else _gpu_parity.names(), 120)]


def _nccl(r: "Recipe", device: torch.device) -> list[Work]:
    cards = max(1, torch.cuda.device_count()) if device.type == "cuda" else 2

    def ranks(count: int) -> Work:
        start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
        words = (*start, "-m", "benchmarks._gpu_nccl", *_common(r))
        return Work((f"{count} process{'es' if count > 1 else ''}",), lambda _: words)

    return [ranks(count) for count in sorted({1, cards})]


def _resume(r: "Recipe", device: torch.device) -> list[Work]:
    rows = _gpu_resume.TINY if r.tiny else tuple(_gpu_resume.ROWS)
    if device.type != "cuda":
        rows = tuple(row for row in rows if "graph" not in row)
    return [_streamed(r, "_gpu_resume", rows)]


def _crops(r: "Recipe", device: torch.device) -> list[Work]:
    def crops(size: int, batch: int, repeats: int, processes: int) -> Work:
        words = (
            "-m", "benchmarks.input_pipeline", "--device", r.device, "--image_size", str(size), "--source_size",
            str(size), "--batch", str(batch), "--repeats", str(repeats), "--processes", str(processes),
        )  # fmt: skip
        return Work((f"{size} px, batch {batch}, {processes} workers beside",), lambda _: words)

    if r.tiny:
        return [crops(32, 4, 1, 1)]
    workers = min(8, os.cpu_count() or 1)
    return [crops(size, 256, 5, workers) for size in (32, 64)]


def _recipe(r: "Recipe", device: torch.device) -> list[Work]:
    """The published commands; what they have done is in their run folders."""
    ssl, finetune = f"{r.runs}/stage_one", f"{r.runs}/stage_two"
    if r.tiny:
        small = "--recipe published --arch resnet8 --image_size 16 --dataset shapes --epochs 1"
        alone = "--local_crops_number 0 --knn_freq 0 --out_dim 64 --batch_size_per_gpu 100"
        first: Words = ("train_ssl.py", *small.split(), *alone.split())
        few = "--batch_size 500 --ra 1 --label_percent 20"
        second: Words = ("finetune.py", *small.split(), *few.split())
    else:
        data = ("--datapath", r.datapath)
        first = ("train_ssl.py", "--recipe", SSL, "--batch_size_per_gpu", "512", *data)
        second = ("finetune.py", "--recipe", FINETUNE, "--dataset", "CIFAR10", *data)
    settings = (
        "--device", r.device, "--precision", r.precision, "--compile", str(r.compile).lower(),
    )  # fmt: skip
    first += (*settings, "--output_dir", ssl)
    second += (*settings, "--pretrained_weights", ssl, "--output_dir", finetune)
    return [
        Work(("stage one",), lambda _: first, None, goes_on=True),
        Work(("stage two",), lambda _: second, None, goes_on=True, after="stage one"),
    ]


PARTS: dict[str, Callable[["Recipe", torch.device], list[Work]]] = {
    "tests": _tests,
    "step": _step,
    "sdpa": _sdpa,
    "parity": _parity,
    "nccl": _nccl,
    "resume": _resume,
    "crops": _crops,
    "recipe": _recipe,
}


def missing_data(r: "Recipe") -> str | None:
    """Why the recipe has no images, if so."""
    if r.tiny:
        return None
    try:
        for split in ("train", "test"):
            registry.source("CIFAR10").listing(r.datapath, split)
    except (OSError, ValueError) as error:
        return str(error)
    return None
