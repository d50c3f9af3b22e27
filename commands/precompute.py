"""Before stage two: store a teacher's maps of all training images, which then guide without running it.

    multicrop precompute --teacher runs/resnet56 --dataset CIFAR10 --datapath data --output_dir features
    multicrop finetune --scratch --guidance linear --guidance_features features --aa false --mix_prob 0 ...

Teacher -> images -> maps -> one array per map and features.json, which says of what. Its size is said before it begins,
and the same command goes on where it was interrupted. Every flag: config/precompute.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._data import colours, labelled_images, load_options, resolve_source_size
from multicrop.commands._networks import build_teacher_backbone
from multicrop.commands._origin import data_origin
from multicrop.commands._stopping import stoppable
from multicrop.config.precompute import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.batches import Pixels
from multicrop.engine.fingerprint import dataset_fingerprint, teacher_fingerprint
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype
from multicrop.engine.progress import Progress
from multicrop.registry import source
from multicrop.supervised.pairs import check_map_names, stage_ends
from multicrop.supervised.teacher import Teacher
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained
from multicrop.weights.teacher_maps import MapShape, Writer, format_bytes


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    if ranks.world_size() > 1:
        raise ValueError("precompute runs in one process: start it without torchrun")
    dtype = autocast_dtype(recipe.machine.precision, device)
    with stoppable() as interrupt:  # also while images are decoded
        file = read_teacher(recipe)
        dataset, images = load(recipe, file)
        teacher = build(recipe, file, images.pixels.shape[1]).to(device)
        mean, std = colours(file.metadata, images)
        maps_of = TeacherMaps(teacher, EvalTransform(teacher.size, mean, std), device, dtype)
        writer = prepare(recipe, dataset, images, maps_of)
        progress = store(writer, maps_of, images.pixels, recipe.features.batch_size, interrupt)
    return {
        "status": "finished" if writer.done == writer.images else "interrupted",
        "output_dir": recipe.features.output_dir,
        "images": writer.images,
        "done": writer.done,
        "bytes": writer.bytes,
        "dtype": recipe.features.dtype,
        "maps": {
            name: [shape.width, shape.rows, shape.columns] for name, shape in writer.maps.items()
        },
        **progress.total(),
    }


# Teacher


def read_teacher(recipe: Recipe) -> Pretrained:
    recipe.teacher.check()
    asked = recipe.teacher
    assert asked.teacher is not None
    return pretrained.read(
        asked.teacher, asked.teacher_key, asked.trust_checkpoint, "--teacher_key"
    )


def build(recipe: Recipe, file: Pretrained, channels: int) -> Teacher:
    options = recipe.teacher
    network, size = build_teacher_backbone(
        file, options.teacher_arch, options.teacher_image_size, channels
    )
    check_map_names(network, options.guide_teacher, "--guide_teacher")
    names = options.guide_teacher or stage_ends(network)
    return Teacher(network, size, names, options.teacher_bn)


class TeacherMaps(NamedTuple):
    """uint8 images (B, C, S, S) -> the teacher's maps (B, width, h, w)."""

    teacher: Teacher
    transform: EvalTransform
    device: torch.device
    dtype: torch.dtype | None

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self.teacher(self.transform(pixels.to(self.device))).maps


# Data


def load(recipe: Recipe, file: Pretrained) -> tuple[str, ImageSet]:
    """The entry of datasets/ and its training images."""
    origin = data_origin(recipe.data, file.metadata)
    image_size = recipe.teacher.teacher_image_size or file.metadata.backbone.get("image_size")
    source_size = resolve_source_size(origin.source_size, image_size, crops=False)
    (images,) = labelled_images(origin, load_options(recipe.data, source_size), ("train",))
    return source(origin.dataset).entry, images


# Maps


def prepare(recipe: Recipe, dataset: str, images: ImageSet, maps_of: TeacherMaps) -> Writer:
    """What is to be written, said before it begins. OSError where the disk has no room for it."""
    teacher, options = maps_of.teacher, recipe.features
    fingerprint = dataset_fingerprint(dataset, images) | teacher_fingerprint(teacher)
    if tuple(images.pixels.shape[2:]) != _pair(teacher.size):
        fingerprint["resample"] = (
            "bicubic"  # bilinear in folders of older versions, which do not say so
        )
    # What the teacher says of an image depends on the others
    if recipe.teacher.teacher_bn == "batch":
        fingerprint["batch"] = options.batch_size
    example = maps_of(torch.zeros(2, *images.pixels.shape[1:], dtype=torch.uint8))
    shapes = {}
    for name, maps in zip(teacher.names, example, strict=True):
        _, width, rows, columns = maps.shape
        shapes[name] = MapShape(width, teacher.backbone.maps[name].stride, rows, columns)
    writer = Writer(options.output_dir, fingerprint, shapes, options.dtype)
    listed = [
        f"{name} {shape.width} x {shape.rows} x {shape.columns}" for name, shape in shapes.items()
    ]
    ranks.log(
        f"{writer.images} images of {dataset}; maps {', '.join(listed)}, {options.dtype}: "
        f"{format_bytes(writer.bytes)} at {options.output_dir}"
    )
    if writer.done:
        ranks.log(f"{writer.done} images are stored already")
    writer.check_space()
    return writer


def store(
    writer: Writer, maps_of: TeacherMaps, pixels: Pixels, batch_size: int, interrupt: Interrupt
) -> Progress:
    """The loop; it ends early where a signal asks for it."""
    starts = range(writer.done, writer.images, batch_size)
    progress = Progress(len(starts), 0, batch_size)
    with writer:
        for start in starts:
            if interrupt.asked:
                break
            writer.append(maps_of(pixels[start : start + batch_size]))
            progress.step()
    progress.close()
    return progress
