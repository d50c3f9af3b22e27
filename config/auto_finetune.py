"""--recipe auto of stage two: settings as functions of the images and of the length of the run, each with its reason.

The published values are those of 300 passes over 50,000 images. LOG.md has the runs that the rules were fitted on.
"""

from collections.abc import Mapping
from typing import Any

from .auto import Choice

LARGEST_BATCH, SMALLEST_BATCH = 64, 8
FEWEST_STEPS = 8  # of an epoch
STEPS = 8000  # about as long as stage one takes by default
FEWEST_EPOCHS, MOST_EPOCHS = 10, 100
# Of a backbone; all that the higher rate was tried with are below, and larger ones keep the published rate
FEW_WEIGHTS = 1_000_000
PUBLISHED_RATE, RATE, CLIP = 1e-3, 3e-3, 1.0
# Over the images, from which on the published augmentation has the time that it needs
MANY_PASSES = 200
PLAIN = {"aa": False, "cm": False, "mu": False, "re": 0, "sd": 0}
"""Neither policy, mixing, erasing nor stochastic depth."""


def finetune_choices(
    images: int, parts: int, stated: Mapping[str, Any], weights: int | None = None
) -> list[Choice]:
    """images: those that train. parts: ranks x accumulation steps, into which a batch is cut.

    weights: how many the backbone has; None: not known.
    stated: the settings that are not to be chosen, by name; others follow from them.
    """
    batch = batch_size(images, parts)
    choices = [
        Choice("batch_size", batch, f"leaves {images // batch} steps to a pass over the images")
    ]
    batch = stated.get("batch_size", batch)
    passes = 1
    if stated.get("repeats", 1) == 1:
        choices.append(Choice("ra", 1, "an epoch is one pass over the images"))
        passes = stated.get("ra", 1)
    steps = max(1, passes * images // batch)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(STEPS / steps)))
    why = f"{epochs * steps} steps: about {STEPS}, within {FEWEST_EPOCHS} and {MOST_EPOCHS} epochs"
    choices.append(Choice("epochs", epochs, why))
    epochs = stated.get("epochs", epochs)
    warmup = max(1, round(epochs / 20)) if epochs > 1 else 0
    choices.append(Choice("warmup", warmup, f"a twentieth of {epochs} epochs"))
    choices += _rate(weights, stated)
    if epochs * passes < MANY_PASSES:
        few = f"{epochs * passes} passes over the images: what was published for 300 needs {MANY_PASSES}"
        choices += [Choice(name, value, few) for name, value in PLAIN.items()]
    return choices


def batch_size(images: int, parts: int = 1) -> int:
    """Small enough to leave several steps an epoch; a multiple of the parts into which it is cut."""
    batch = LARGEST_BATCH
    while batch > SMALLEST_BATCH and images < FEWEST_STEPS * batch:
        batch //= 2
    return max(parts, min(batch, images) // parts * parts)


def _rate(weights: int | None, stated: Mapping[str, Any]) -> list[Choice]:
    """The peak of AdamW's rate, and a limit of the gradient that goes with it."""
    other_rule = (
        stated.get("optimizer", "adamw") != "adamw" or "lr" in stated or "lr_batch" in stated
    )
    if weights is None or other_rule or stated.get("freeze_backbone", False):
        return []
    if weights >= FEW_WEIGHTS:
        return [Choice("lr", PUBLISHED_RATE, f"{weights:,} weights: as published")]
    few = f"{weights:,} weights, fewer than {FEW_WEIGHTS:,}: they learn sooner at three times the published rate"
    return [
        Choice("lr", RATE, few),
        Choice("clip_grad", CLIP, "keeps so high a rate stable"),
    ]
