"""Before stage two: store a teacher's maps of all training images, which then guide without running it.

    python precompute.py --teacher runs/resnet56 --dataset CIFAR10 --datapath data --output features
    python finetune.py --scratch --guidance linear --guidance_features features --aa false --mix_prob 0 ...

Teacher -> images -> maps -> one array per map and features.json, which says of what. Its size is said before it begins,
and the same command goes on where it was interrupted. Every flag: config/precompute.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _images
from multicrop.config.precompute import Recipe
from multicrop.datasets._images import ImageSet, LoadOptions
from multicrop.engine import ranks
from multicrop.engine.fingerprint import images_print, teacher_print
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_type
from multicrop.engine.progress import Progress
from multicrop.registry import source
from multicrop.supervised.pairs import named, stages
from multicrop.supervised.teacher import Teacher
from multicrop.supervised.teacher_maps import Stored, Writer, size
from multicrop.weights import pretrained
from multicrop.weights.pretrained import File


def run(r: Recipe) -> dict:
    device = ranks.start(r.device)
    if ranks.world() > 1:
        raise ValueError("precompute.py runs in one process: start it without torchrun")
    cast = autocast_type(r.precision, device)
    with Interrupt() as interrupt:  # also while images are decoded
        file = read(r)
        dataset, split = load(r, file)
        teacher = build(r, file, split.pixels.shape[1]).to(device)
        data = file.about.get("data", {"mean": split.mean, "std": split.std})
        embed = Embed(teacher, EvalTransform(teacher.size, data["mean"], data["std"]), device, cast)
        writer = prepare(r, dataset, split, embed)
        progress = store(writer, embed, split.pixels, r.batch_size, interrupt)
    return {
        "status": "finished" if writer.done == writer.images else "interrupted",
        "output": r.output, "images": writer.images, "done": writer.done, "bytes": writer.bytes, "dtype": r.dtype,
        "maps": {name: [found.width, found.rows, found.columns] for name, found in writer.maps.items()},
        **progress.total(),
    }  # fmt: skip


# Teacher


def read(r: Recipe) -> File:
    r.check_start()
    return pretrained.read(r.teacher, trust=r.trust_checkpoint)


def build(r: Recipe, file: File, channels: int) -> Teacher:
    network, options = pretrained.network(file, r.teacher_arch, r.teacher_image_size, channels)
    names = named(network, r.guide_teacher, "--guide_teacher") or stages(network)
    return Teacher(network, options["image_size"], names, r.teacher_bn)


class Embed(NamedTuple):
    """uint8 images (B, C, S, S) -> the teacher's maps (B, width, h, w)."""

    teacher: Teacher
    transform: EvalTransform
    device: torch.device
    cast: torch.dtype | None

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        with torch.autocast(self.device.type, self.cast, enabled=self.cast is not None):
            return self.teacher(self.transform(pixels.to(self.device))).maps


# Data


def load(r: Recipe, file: File) -> tuple[str, ImageSet]:
    """The entry of datasets/ and its training images."""
    dataset, folder, stored = file.origin(r.dataset, r.datapath, r.source_size)
    stored = (
        stored or r.teacher_image_size or file.about.get("backbone", {}).get("image_size") or 64
    )
    options = LoadOptions(stored, r.download, r.stream, r.workers)
    (split,) = _images.load_labelled(dataset, folder, options, splits=("train",))
    return source(dataset).entry, split


# Features


def prepare(r: Recipe, dataset: str, split: ImageSet, embed: Embed) -> Writer:
    """What is to be written, said before it begins. OSError where the disk has no room for it."""
    fingerprint = images_print(dataset, split) | teacher_print(embed.teacher)
    if r.teacher_bn == "batch":  # what the teacher says of an image depends on the others
        fingerprint["batch"] = r.batch_size
    first = embed(torch.zeros(2, *split.pixels.shape[1:], dtype=torch.uint8))
    strides = [embed.teacher.backbone.maps[name].stride for name in embed.teacher.names]
    maps = {
        name: Stored(found.shape[1], stride, *found.shape[2:])
        for name, stride, found in zip(embed.teacher.names, strides, first, strict=True)
    }
    writer = Writer(r.output, fingerprint, maps, r.dtype)
    shown = ", ".join(
        f"{name} {found.width} x {found.rows} x {found.columns}" for name, found in maps.items()
    )
    ranks.say(
        f"{writer.images} images of {dataset}; maps {shown}, {r.dtype}: {size(writer.bytes)} at {r.output}"
    )
    if writer.done:
        ranks.say(f"{writer.done} images are stored already")
    writer.check_space()
    return writer


def store(
    writer: Writer, embed: Embed, pixels: Tensor, batch_size: int, interrupt: Interrupt
) -> Progress:
    """The loop; it ends early where a signal asks for it."""
    starts = range(writer.done, writer.images, batch_size)
    progress = Progress(len(starts), 0, batch_size)
    with writer:
        for start in starts:
            if interrupt.asked:
                break
            writer.append(embed(pixels[start : start + batch_size]))
            progress.step()
    progress.close()
    return progress
