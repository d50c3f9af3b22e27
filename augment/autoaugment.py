"""AutoAugment (Cubuk et al. 2019, arXiv 1805.09501): learned policies of two operations each, batched.

A sub-policy is drawn per image, uniformly; each of its two operations is applied with its own probability. As in the
published two-stage recipe, signs are random for shear, translation and the enhancing operations, rotation is always
counter-clockwise, and what moves in from outside is grey (128). Rows of the policy file: probability, operation,
magnitude (shear: tangent; translation: share of the side; rotation: degrees; enhancing: distance from factor 1;
posterise: bits; solarise: threshold), twice.
"""

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import affine, operations, tone
from .changes import Change, in_turn
from .operations import Operation, Operations

MOVING = {
    "shear_x": affine.shear_x,
    "shear_y": affine.shear_y,
    "translate_x": affine.translate_x,
    "translate_y": affine.translate_y,
    "rotate": affine.rotate,
}
TONAL = {
    "colour": tone.colour,
    "contrast": tone.contrast,
    "brightness": tone.brightness,
    "sharpness": tone.sharpness,
    "posterise": tone.posterise,
    "solarise": tone.solarise,
}
PLAIN = {"autocontrast": tone.autocontrast, "equalise": tone.equalise, "invert": tone.invert}
TABLE: list[Operation] = [
    *MOVING.values(),
    *(partial(tone.change, run) for run in (TONAL | PLAIN).values()),
]
NAMES = (*MOVING, *TONAL, *PLAIN)
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y")
ENHANCING = ("colour", "contrast", "brightness", "sharpness")
POLICIES: dict[str, list] = json.loads(
    Path(__file__).with_name("autoaugment_policies.json").read_text()
)


class AutoAugment:
    """The policy of a data set: "cifar10", "svhn" or "imagenet"."""

    def __init__(self, policy: str):
        if policy not in POLICIES:
            raise ValueError(f"no AutoAugment policy {policy!r}; known: {', '.join(POLICIES)}")
        probabilities, indices, magnitudes = [], [], []
        for row in POLICIES[policy]:
            first_probability, first_name, first_magnitude = row[:3]
            second_probability, second_name, second_magnitude = row[3:]
            probabilities.append([first_probability, second_probability])
            indices.append([NAMES.index(first_name), NAMES.index(second_name)])
            magnitudes.append([first_magnitude, second_magnitude])
        self.probability = torch.tensor(probabilities)  # (25, 2)
        self.operation = torch.tensor(indices)
        self.magnitude = torch.tensor(magnitudes, dtype=torch.float64)

    def draw(self, batch: int, generator: torch.Generator) -> Operations:
        """The operations of every image of the global batch."""
        policy = torch.randint(len(self.operation), (batch,), generator=generator)
        applied = torch.rand(batch, 2, generator=generator) < self.probability[policy]
        sign = 2 * torch.randint(2, (batch, 2), generator=generator) - 1
        operation = self.operation[policy]
        amount = signed_amount(operation, self.magnitude[policy], sign)
        return Operations(torch.where(applied, operation, -1), amount)

    def __call__(self, images: Tensor, draws: Operations) -> Tensor:
        """uint8 images (B, C, H, W) on any device, draws on the CPU -> uint8."""
        return apply(images, draws)

    def change(self, draws: Operations, size: tuple[int, int]) -> Change:
        """The same, to be run later on images of this height and width in px."""
        return operations.change(draws, size, TABLE)


def signed_amount(operation: Tensor, magnitude: Tensor, sign: Tensor) -> Tensor:
    """The amount that an operation takes, from its magnitude and a sign of +1 or -1, element by element."""
    flipped = magnitude * sign
    amount = torch.where(_is_one_of(operation, SIGNED), flipped, magnitude)
    return torch.where(_is_one_of(operation, ENHANCING), 1 + flipped, amount)


def _is_one_of(operation: Tensor, names: tuple[str, ...]) -> Tensor:
    """Which elements are the index in NAMES of one of these names."""
    indices = [NAMES.index(name) for name in names]
    return torch.isin(operation, torch.tensor(indices))


def run(name: str, images: Tensor, amount: Tensor) -> Tensor:
    """One operation on uint8 images (B, C, H, W) on any device, an amount for each (B,) on the CPU."""
    operation = TABLE[NAMES.index(name)]
    return in_turn(images, [operation(amount, *images.shape[2:])])


def apply(images: Tensor, draws: Operations) -> Tensor:
    """Both operations of every image, in order: uint8 (B, C, H, W) on any device, draws on the CPU -> uint8."""
    return operations.apply(images, draws, TABLE)
