"""The temperature of a classifier's logits at which its probabilities fit the validation images best.

Guo et al. 2017 (arXiv 1706.04599), section 4.2: one number T, probabilities softmax(logits / T), chosen by the negative
log likelihood of images that were not trained on. It changes no prediction. N images, K classes.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

LEAST_IMAGES = 20  # of fewer, T is a matter of chance
COLDEST, HOTTEST = (
    0.05,
    20.0,
)  # an optimum beyond is none: so is that of images that are all told right
STEPS = 60
TOLERANCE = 1e-9


def probabilities(logits: Tensor, temperature: float | None) -> Tensor:
    """Logits (N, K) -> softmax(logits / T), float32 (N, K); T is 1 where there is none."""
    return (logits.float() / (temperature or 1.0)).softmax(1)


@dataclass(frozen=True)
class Temperature:
    """temperature: T. images: validation images that it was fitted on. nll_before, nll: their mean negative log
    likelihood in nats, at T = 1 and at T."""

    temperature: float
    images: int
    nll_before: float
    nll: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature | None:
    """Logits (N, K), labels (N,) -> T; None of too few images, or where no T between COLDEST and HOTTEST is best.

    The likelihood is a convex function of b = 1 / T: Newton's method on its slope, within a bracket that each step
    narrows.
    """
    if len(labels) < LEAST_IMAGES:
        return None
    logits = logits.detach().double().cpu()
    labels = labels.cpu()
    low, high = 1 / HOTTEST, 1 / COLDEST
    if (
        slope_and_curve(logits, labels, low)[0] >= 0
        or slope_and_curve(logits, labels, high)[0] <= 0
    ):
        return None
    b = 1.0
    for _ in range(STEPS):
        slope, curve = slope_and_curve(logits, labels, b)
        if slope > 0:
            high = b
        else:
            low = b
        proposed = b - slope / curve if curve > 0 else low
        if not low < proposed < high:
            proposed = (low + high) / 2
        moved = abs(proposed - b)
        b = proposed
        if moved < TOLERANCE * b:
            break
    return Temperature(
        temperature=1 / b,
        images=len(labels),
        nll_before=F.cross_entropy(logits, labels).item(),
        nll=F.cross_entropy(logits * b, labels).item(),
    )


def slope_and_curve(logits: Tensor, labels: Tensor, b: float) -> tuple[float, float]:
    """First and second derivative by b of the mean negative log likelihood of softmax(b * logits)."""
    probabilities = (b * logits).softmax(1)
    mean = (probabilities * logits).sum(1)
    variance = (probabilities * logits.square()).sum(1) - mean.square()
    of_labels = logits.gather(1, labels[:, None])[:, 0]
    return (mean - of_labels).mean().item(), variance.mean().item()
