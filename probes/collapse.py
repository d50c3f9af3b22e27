"""Is the run collapsing? A few numbers of one batch, and what they mean in plain words.

Feature rank: RankMe, Garrido et al. 2023 (arXiv 2210.02885), eq. 1. The two collapses of self-distillation, to one
prototype and to the uniform distribution: Caron et al. 2021 (arXiv 2104.14294), section 5.3.
G global crops, B images, K prototypes, n features of width D. Entropies are in nats.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1024  # the features that the rank and the spread are taken from


@torch.no_grad()
def statistics(targets: Tensor, features: Tensor) -> dict[str, float]:
    """Teacher probabilities (G, B, K) and backbone features (n, D) -> five numbers.

    target_entropy   mean over views of the entropy of a view's target; ln K is uniform, 0 is one prototype
    mean_entropy     entropy of the mean target of the batch; ln K uses all prototypes alike, 0 uses one
    target_gap       their difference: what a target tells about its image, at most ln B; 0 says all are the same
    feature_rank     RankMe, 1 (all on one line) to min(n, D)
    feature_spread   sqrt(D) x mean standard deviation of unit-length features: 1 fills the sphere, 0 is one point
    """
    targets = targets.float().flatten(0, -2)
    target_entropy = _entropy(targets).mean().item()
    mean_entropy = _entropy(targets.mean(0)).item()
    features = features[:_ROWS].detach().cpu().double()
    return {
        "target_entropy": target_entropy,
        "mean_entropy": mean_entropy,
        "target_gap": mean_entropy - target_entropy,
        "feature_rank": _rank(features),
        "feature_spread": _spread(features),
    }


def diagnosis(loss: float, statistics: dict[str, float], prototypes: int, best_rank: float | None = None) -> str | None:
    """What these numbers of a run after its warm-up show, and what to try; None when nothing looks wrong.

    Loss in nats per pair of views. `best_rank` is the highest feature rank seen so far in the run. In the first epochs
    every run is close to uniform: ask when the warm-up of the teacher temperature is over.
    """
    uniform = math.log(prototypes)
    s = statistics
    numbers = (
        f"loss {loss:.2f}, ln K {uniform:.2f}, target entropy {s['target_entropy']:.2f}, "
        f"of their mean {s['mean_entropy']:.2f}, feature rank {s['feature_rank']:.1f}"
    )
    for holds, advice in _signs(loss / uniform, s, uniform, best_rank):
        if holds:
            return f"{advice} ({numbers})"
    return None


class Watch:
    """The statistics along a run: remembers the best feature rank, and gives each diagnosis once."""

    def __init__(self, prototypes: int):
        self.prototypes, self.best_rank = prototypes, 0.0
        self._words: str | None = None
        self._said: set[str] = set()

    def look(self, loss: float, targets: Tensor, features: Tensor) -> dict[str, float]:
        """The statistics of one step (see `statistics`)."""
        numbers = statistics(targets, features)
        self.best_rank = max(self.best_rank, numbers["feature_rank"])
        self._words = diagnosis(loss, numbers, self.prototypes, self.best_rank)
        return numbers

    def warning(self) -> str | None:
        """What the last look showed, if it is bad news and has not been said yet."""
        kind = (self._words or "").split(":")[0].split(".")[0]
        if not self._words or kind in self._said:
            return None
        self._said.add(kind)
        return self._words


def _signs(loss: float, s: dict[str, float], uniform: float, best_rank: float | None) -> list[tuple[bool, str]]:
    """(does it hold, what to say), the most serious first; the loss in units of ln K.

    The target gap tells a flat start from a collapse: 0.25 nats at a ViT's random weights (temperature 0.07), 0.07 in a
    slow but healthy run, 0.002 at once and then 0 in one whose teacher temperature was 0.5.
    """
    target, mean = s["target_entropy"] / uniform, s["mean_entropy"] / uniform
    return [
        (mean < 0.25, _FEW_PROTOTYPES.format(math.exp(s["mean_entropy"]))),
        (s["target_gap"] < 0.02 and target > 0.98, _UNIFORM),
        (s["target_gap"] < 0.02, _SAME_TARGET),
        (s["feature_rank"] < 1.5, _ONE_LINE),
        (best_rank is not None and s["feature_rank"] < 0.5 * best_rank, _FALLING),
        (loss < 0.02, _EASY),
    ]


_FEW_PROTOTYPES = (
    "Collapse to about {:.0f} of all prototypes: nearly every image has the same, sharp target, sharpening has beaten "
    "centring. Go back to a checkpoint before this; raise --teacher_temp and --warmup_teacher_temp, lower "
    "--center_momentum, lower --lr or warm it up for longer"
)
_UNIFORM = (
    "Uniform collapse: the targets are flat and the loss is pinned at ln K, so there is nothing to learn from. "
    "Sharpen them: lower --teacher_temp and --warmup_teacher_temp (0.04, then 0.02); on a small set also try "
    "--momentum_teacher 0.99, a smaller --out_dim and a larger --lr"
)
_SAME_TARGET = (
    "The targets hardly differ between images, so the student learns one constant answer. Lower --teacher_temp, try "
    "--momentum_teacher 0.99 or a smaller --out_dim, and check that the images are not all the same"
)
_ONE_LINE = (
    "Feature rank near 1: all images have almost the same feature. If it stays there, lower --lr or warm it up for "
    "longer (--warmup_epochs), and try a lower --teacher_temp"
)
_FALLING = (
    "Feature rank has fallen below half of its best: features are losing directions. Trust the k-NN curve over the "
    "loss: if it falls too, use the checkpoint of its peak and run again with a lower --lr or --weight_decay_end"
)
_EASY = (
    "The loss is almost 0 although targets differ: the views are too easy to match. Make them harder: lower the first "
    "number of --global_crops_scale and --local_crops_scale, or take a larger --out_dim or batch"
)


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _rank(features: Tensor) -> float:
    """exp of the entropy of the singular values. Gram matrix in float64: far cheaper than an SVD."""
    if not features.isfinite().all():
        return math.nan
    if features.shape[0] < features.shape[1]:
        features = features.T
    values = torch.linalg.eigvalsh(features.T @ features).clamp(min=0).sqrt()
    return _entropy(values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)).exp().item()


def _spread(features: Tensor) -> float:
    width = features.shape[1]
    return (width**0.5 * F.normalize(features, dim=1).std(0, correction=0).mean()).item()
