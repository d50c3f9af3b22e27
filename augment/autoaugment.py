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
from .operations import Operations

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
    """One operation on uint8 images (B, C, H, W), an amount for each (B,)."""
    if name in PLAIN:
        return tone.on_colours(PLAIN[name], images)
    if name in TONAL:
        return tone.on_colours(TONAL[name], images, amount)
    return MOVING[name](images, amount)


def apply(images: Tensor, draws: Operations) -> Tensor:
    """Both operations of every image, in order: uint8 (B, C, H, W) on any device, draws on the CPU -> uint8."""
    table = [partial(run, name) for name in NAMES]
    return operations.apply(images, draws, table)
