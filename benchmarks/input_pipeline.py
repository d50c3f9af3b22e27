"""Our batched crops against a per-image pipeline of torchvision on Pillow images: same recipe, same cores.

    python -m benchmarks.input_pipeline --out benchmarks/results/input_pipeline_cpu.json
    python -m benchmarks.input_pipeline --processes 1

Prints one JSON object: milliseconds per image of both, their ratio, and ours by operation. Ours is one process of
`--processes` threads and includes the drawing of the parameters; theirs is a DataLoader of as many workers (none for 1)
over images in memory, so neither reads files. They run in turns; times are medians, and the ratio is the median of the
turns' ratios. Where other programs use the same cores, set OMP_WAIT_POLICY=passive: otherwise our threads spin while
they wait for each other, at every operation, and lose their share of the processor.
"""

import json
import os
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks._machine import machine, now
from multicrop import cli
from multicrop.augment import blur, colour, resample
from multicrop.ssl.crops import MultiCrop, Views


@dataclass(frozen=True)
class Recipe:
    """Time the making of crops."""

    batch: int = 128
    """Images per batch."""
    image_size: int = 32
    """Side of the global crops in pixels; local ones have half of it."""
    source_size: int = 32
    """Side of the images in pixels."""
    local_crops_number: int = 8
    """Local crops per image."""
    global_crops_scale: tuple[float, float] = (0.7, 1.0)
    """Share of the area in a global crop."""
    local_crops_scale: tuple[float, float] = (0.2, 0.5)
    """Share of the area in a local crop."""
    processes: int = min(2, os.cpu_count() or 1)
    """Threads of ours, workers of theirs."""
    device: str = "cpu"
    """Where ours runs; theirs is always on the CPU."""
    repeats: int = 9
    """Turns."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict:
    torch.set_num_threads(r.processes)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    crop = MultiCrop(
        r.image_size,
        r.image_size // 2,
        r.local_crops_number,
        r.global_crops_scale,
        r.local_crops_scale,
        mean,
        std,
    )
    device = torch.device(r.device)
    images = torch.stack([scene(r.source_size, seed) for seed in range(r.batch)])
    generator = torch.Generator().manual_seed(0)

    def ours():
        crop(images.to(device), crop.draw(r.batch, r.source_size, r.source_size, generator))

    theirs = per_image_loader(images, PerImage(crop), r.processes)
    list(theirs), ours(), ours()  # starts the workers, fills allocators and tables
    turns = []
    for _ in range(r.repeats):
        turns.append(
            (seconds(ours, device, times=10), seconds(lambda: list(theirs), device) / len(theirs))
        )
    return report(r, device, turns, by_operation(crop, images.to(device), r))


def seconds(work: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Mean of `times` calls."""
    start = now(device)
    for _ in range(times):
        work()
    return (now(device) - start) / times


def by_operation(crop: MultiCrop, images: Tensor, r: Recipe) -> dict[str, float]:
    """Milliseconds per image of each part of MultiCrop, global and local crops together: medians."""
    source, device = (r.source_size, r.source_size), images.device
    drawn = crop.draw(r.batch, *source).to(device)
    rows = []
    for _ in range(r.repeats):
        row = {"draw": seconds(lambda: crop.draw(r.batch, *source), device)}
        for views, size in ((drawn.globals, crop.image_size), (drawn.locals, crop.local_size)):
            for name, work in operations(crop, images, views, size).items():
                row[name] = row.get(name, 0) + seconds(work, device)
        rows.append(row)
    return {
        name: round(1000 * statistics.median(row[name] for row in rows) / r.batch, 5)
        for name in rows[0]
    }


def operations(crop: MultiCrop, images: Tensor, views: Views, size: int) -> dict[str, Callable]:
    planes = resample.resize_crops(images, views.box, views.flip, (size, size))
    return {
        "crop, flip, resize": lambda: resample.resize_crops(
            images, views.box, views.flip, (size, size)
        ),
        "jitter": lambda: colour.jitter_(planes, views.order, views.factors),
        "grayscale": lambda: colour.grayscale_(planes, views.grayscale),
        "blur": lambda: blur.blur_(planes, views.sigma, largest=crop.sigma[1]),
        "solarise": lambda: colour.solarise_(planes, views.solarise),
        "normalise": lambda: crop.normalise(planes),
    }


class PerImage:
    """The recipe as it is usually written: a list of Pillow transforms per crop."""

    def __init__(self, crop: MultiCrop):
        first, second, local = crop.blur
        whole, part = (crop.image_size, crop.global_scale), (crop.local_size, crop.local_scale)
        self.views = [
            self._view(crop, *whole, first, 0.0),
            self._view(crop, *whole, second, crop.solarise),
        ]
        self.views += [self._view(crop, *part, local, 0.0)] * crop.local_crops

    @staticmethod
    def _view(
        crop: MultiCrop, size: int, scale: tuple, blur: float, solarise: float
    ) -> transforms.Compose:
        jitter = transforms.ColorJitter(crop.brightness, crop.contrast, crop.saturation, crop.hue)
        chain = [
            transforms.RandomResizedCrop(
                size, scale, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(crop.flip),
            transforms.RandomApply([jitter], crop.jitter),
            transforms.RandomGrayscale(crop.grayscale),
            Chance(blur, Blur(crop.sigma)),
            *([Chance(solarise, ImageOps.solarize)] if solarise else []),
            transforms.ToTensor(),
            transforms.Normalize(crop.mean, crop.std),
        ]
        return transforms.Compose(chain)

    def __call__(self, image: Image.Image) -> list[Tensor]:
        return [view(image) for view in self.views]


class Chance:
    """Apply an operation with a probability."""

    def __init__(self, probability: float, operation: Callable):
        self.probability, self.operation = probability, operation

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.operation(image) if random.random() < self.probability else image


class Blur:
    """Pillow's Gaussian blur of a random deviation."""

    def __init__(self, sigma: tuple[float, float]):
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))


class InMemory(Dataset):
    """Images (B,C,H,W), `rounds` times over."""

    def __init__(self, images: Tensor, rounds: int, transform: Callable):
        self.arrays, self.rounds, self.transform = (
            images.permute(0, 2, 3, 1).numpy(),
            rounds,
            transform,
        )

    def __len__(self) -> int:
        return self.rounds * len(self.arrays)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.arrays[index % len(self.arrays)]))


def per_image_loader(images: Tensor, transform: Callable, processes: int) -> DataLoader:
    """One round of it is two batches per process; between rounds its workers stay, and wait."""
    workers = processes if processes > 1 else 0  # one process makes the crops itself
    rounds = InMemory(images, 2 * processes, transform)
    return DataLoader(rounds, len(images), num_workers=workers, persistent_workers=workers > 0)


def scene(size: int, seed: int) -> Tensor:
    """A smooth uint8 image (3, size, size) with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0]
    return (fine + 8 * torch.randn(fine.shape, generator=generator)).clamp(0, 255).byte()


def report(
    r: Recipe, device: torch.device, turns: list[tuple[float, float]], parts: dict[str, float]
) -> dict:
    ours, theirs = (statistics.median(turn) for turn in zip(*turns, strict=True))
    found = {
        "what": "input pipeline: all crops of one image",
        "settings": asdict(r),
        "machine": machine(device)
        | {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "wait": os.environ.get("OMP_WAIT_POLICY", "default"),
        },
        "ours_ms_per_image": round(1000 * ours / r.batch, 4),
        "per_image_pipeline_ms_per_image": round(1000 * theirs / r.batch, 4),
        "times_cheaper": round(statistics.median(b / a for a, b in turns), 1),
        "times_cheaper_by_turn": [round(b / a, 1) for a, b in turns],
        "ours_ms_per_image_by_part": parts,
    }
    if r.out:
        Path(r.out).write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    cli.main(Recipe, measure)
