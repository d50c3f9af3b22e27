"""How far a classifier's probabilities can be trusted. N images."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # as Guo et al. have it


@dataclass(frozen=True)
class Calibration:
    """ece: expected calibration error, in percent. nll: mean negative log likelihood, in nats. brier: mean over images
    of the squared distance, summed over classes, between probabilities and label: 0 to 2."""

    ece: float
    nll: float
    brier: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def calibration(logits: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """logits (N, classes), labels (N,)."""
    logits = logits.double() if logits.device.type != "mps" else logits.float()
    probabilities = logits.softmax(1)
    target = F.one_hot(labels, logits.shape[1])
    brier = (probabilities - target).square().sum(1).mean()
    return Calibration(
        ece=round(expected_calibration_error(probabilities, labels, bins), 4),
        nll=round(F.cross_entropy(logits, labels).item(), 5),
        brier=round(brier.item(), 5),
    )


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Probabilities (N, classes) -> in percent, the mean distance between confidence and accuracy.

    Images are put into `bins` bins of equal width by the probability of the predicted class, bins closed above; each
    counts by its images (Guo et al. 2017, arXiv 1706.04599, eq. 3).
    """
    confidence, predicted = probabilities.max(1)
    hits = (predicted == labels).to(confidence.dtype)
    bounds = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    chosen = torch.bucketize(confidence, bounds[1:-1])
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device)
    gaps.index_add_(
        0, chosen, hits - confidence
    )  # of each bin: images times (accuracy - confidence)
    return 100 * gaps.abs().sum().item() / len(labels)
