"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) as timm has it, batched: "rand-m9-mstd0.5-inc1" and the like.

Of 15 operations n are drawn per image, with replacement; each is applied with probability p, at its own magnitude from
a normal distribution about m, kept within 0..10. Signs are random for shear, translation, rotation and (inc1) the
enhancing operations. What moves in from outside is of the images' mean colour. Geometric operations are bicubic, as the
DHVT, LocalViT and locality-guidance recipes have them; the compact transformers' choose bilinear or bicubic at random.
"""

import re
import string
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from . import affine, operations, tone
from .changes import Change
from .operations import Operation, Operations

HIGHEST = 10  # magnitude
SPEC = re.compile(r"rand(-(m\d+|n\d+|mstd\d*\.?\d+|p\d*\.?\d+|inc[01]))*")
PLAIN = {"autocontrast": tone.autocontrast, "equalise": tone.equalise, "invert": tone.invert}
TONAL = {
    "posterise": tone.posterise,
    "solarise": tone.solarise,
    "solarise_add": tone.solarise_add,
    "colour": tone.colour,
    "contrast": tone.contrast,
    "brightness": tone.brightness,
    "sharpness": tone.sharpness,
}
MOVING = {
    "rotate": affine.rotate_bicubic,
    "shear_x": affine.shear_x,
    "shear_y": affine.shear_y,
    "translate_x": affine.translate_x_bicubic,
    "translate_y": affine.translate_y_bicubic,
}
NAMES = (*PLAIN, *TONAL, *MOVING)
ENHANCING = ("colour", "contrast", "brightness", "sharpness")
# At HIGHEST
LARGEST = {
    "rotate": 30.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 0.45,
    "translate_y": 0.45,
}


@dataclass(frozen=True)
class RandAugment:
    """Which operations an image gets, and how strongly.

    magnitude: the mean, 0..10.
    deviation: the magnitude's standard deviation.
    count: operations per image.
    probability: of each operation.
    increasing: whether posterising, solarising and enhancing grow with the magnitude.
    fill: levels per channel of what moves in.
    """

    magnitude: float = 10.0
    deviation: float = 0.0
    count: int = 2
    probability: float = 0.5
    increasing: bool = False
    fill: affine.Fill = affine.FILL

    def draw(self, batch: int, generator: torch.Generator) -> Operations:
        """The operations of every image of the global batch."""
        shape = (batch, self.count)
        chosen = torch.randint(len(NAMES), shape, generator=generator)
        applied = torch.rand(shape, generator=generator) < self.probability
        sign = 2 * torch.randint(2, shape, generator=generator) - 1
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        magnitude = (self.magnitude + self.deviation * noise).clamp(0, HIGHEST)
        operation = torch.where(applied, chosen, -1)
        return Operations(operation, amounts(chosen, magnitude, sign, self.increasing))

    def __call__(self, images: Tensor, draws: Operations) -> Tensor:
        """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8."""
        return operations.apply(images, draws, self._table())

    def change(self, draws: Operations, size: tuple[int, int]) -> Change:
        """The same, to be run later on images of this height and width in px."""
        return operations.change(draws, size, self._table())

    def _table(self) -> list[Operation]:
        """What each of NAMES does."""
        toned = [partial(tone.change, run) for run in (PLAIN | TONAL).values()]
        return [*toned, *(partial(run, fill=self.fill) for run in MOVING.values())]


def read(spec: str, fill: affine.Fill = affine.FILL) -> RandAugment:
    """timm's notation, "rand-m9-n2-mstd0.5-p0.5-inc1", all parts but the first optional. ValueError for any other."""
    if not SPEC.fullmatch(spec):
        raise ValueError(
            f"no RandAugment is written {spec!r}: rand, then any of -m9 (magnitude), -mstd0.5 (its deviation), -n2 "
            "(operations), -p0.5 (probability of each), -inc1 (all grow with the magnitude)"
        )
    augment = RandAugment(fill=fill)
    for part in spec.split("-")[1:]:
        value = part.lstrip(string.ascii_lowercase)
        match part.removesuffix(value):
            case "m":
                augment = replace(augment, magnitude=float(value))
            case "mstd":
                augment = replace(augment, deviation=float(value))
            case "n":
                augment = replace(augment, count=int(value))
            case "p":
                augment = replace(augment, probability=float(value))
            case "inc":
                augment = replace(augment, increasing=value == "1")
    if augment.probability > 1 or augment.magnitude > HIGHEST:
        raise ValueError(
            f"{spec}: the magnitude m is at most {HIGHEST} and the probability p at most 1"
        )
    return augment


def amounts(operation: Tensor, magnitude: Tensor, sign: Tensor, increasing: bool) -> Tensor:
    """What operations (index into NAMES) take at a magnitude of 0..10 and with a sign of +1 or -1, by element."""
    level = magnitude / HIGHEST
    bits = (level * 4).trunc()
    threshold = (level * 256).trunc().clamp(max=256)
    factor = 0.1 + 1.8 * level
    if increasing:
        bits = 4 - bits
        threshold = 256 - threshold
        factor = (1 + sign * level * 0.9).clamp(min=0.1)

    table = {name: sign * level * largest for name, largest in LARGEST.items()}
    table["posterise"] = bits
    table["solarise"] = threshold
    table["solarise_add"] = (level * 110).trunc()
    for name in ENHANCING:
        table[name] = factor

    amount = torch.zeros_like(magnitude)
    for name, value in table.items():
        amount = torch.where(operation == NAMES.index(name), value, amount)
    return amount
