"""Is the run collapsing? A few numbers of one batch, and what they mean in plain words.

Feature rank: RankMe, Garrido et al. 2023 (arXiv 2210.02885), eq. 1. The two collapses of self-distillation, to one
prototype and to the uniform distribution: Caron et al. 2021 (arXiv 2104.14294), section 5.3.
G global crops, B images, K prototypes, n features of width D. Entropies are in nats.
"""

import math
from collections.abc import Iterable

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


def diagnosis(
    loss: float, statistics: dict[str, float], prototypes: int, best_rank: float | None = None, *,
    early: bool = False, lowest: float | None = None,
) -> str | None:  # fmt: skip
    """What these numbers of a run show, and what to try; None when nothing looks wrong.

    Loss in nats per pair of views. `best_rank` is the highest feature rank seen so far in the run, `lowest` the lowest
    loss, given once it should have left ln K. early=True, before the warm-up of the teacher temperature is over, asks
    only about the targets: in the first epochs every run is close to uniform and its features are poor.
    """
    uniform = math.log(prototypes)
    s = statistics
    numbers = (
        f"loss {loss:.2f}, ln K {uniform:.2f}, target entropy {s['target_entropy']:.2f}, "
        f"of their mean {s['mean_entropy']:.2f}, feature rank {s['feature_rank']:.1f}"
    )
    signs = _target_signs(s, uniform) if early else _signs(loss / uniform, s, uniform, best_rank)
    if lowest is not None:
        signs.append((lowest > 0.98 * uniform, _NOT_LEARNING))
    for holds, advice in signs:
        if holds:
            return f"{advice} ({numbers})"
    return None


class Watch:
    """The statistics along a run: remembers the best feature rank and the lowest loss, and gives each diagnosis once.

    Epochs: from `early` on it says what the targets show, from `warm` on all else, and from `late` on that the loss has
    never left ln K.
    """

    def __init__(
        self, prototypes: int, early: float = 0.0, warm: float = 0.0, late: float = math.inf
    ):
        self.prototypes, self.early, self.warm, self.late = prototypes, early, warm, late
        self.best_rank, self.lowest = 0.0, math.inf
        self._last: tuple[float, dict[str, float]] | None = None
        self._said: set[str] = set()

    def recall(self, rows: Iterable[dict]) -> None:
        """Take up what a run logged before it was resumed."""
        for row in rows:
            self._remember(row.get("loss", math.inf), row.get("feature_rank", 0.0))

    def look(self, loss: float, targets: Tensor, features: Tensor) -> dict[str, float]:
        """The statistics of one step (see `statistics`)."""
        numbers = statistics(targets, features)
        self._remember(loss, numbers["feature_rank"])
        self._last = loss, numbers
        return numbers

    def warning(self, epoch: float = math.inf) -> str | None:
        """What the last look showed, if it is bad news and has not been said yet; `epoch` may be a fraction."""
        if self._last is None or epoch < self.early:
            return None
        lowest = self.lowest if epoch >= self.late else None
        words = diagnosis(
            *self._last, self.prototypes, self.best_rank, early=epoch < self.warm, lowest=lowest
        )
        kind = (words or "").split(":")[0].split(".")[0]
        if not words or kind in self._said:
            return None
        self._said.add(kind)
        return words

    def _remember(self, loss: float, rank: float) -> None:
        self.lowest, self.best_rank = min(self.lowest, loss), max(self.best_rank, rank)


def _signs(
    loss: float, s: dict[str, float], uniform: float, best_rank: float | None
) -> list[tuple[bool, str]]:
    """(does it hold, what to say), the most serious first; the loss in units of ln K."""
    return [
        *_target_signs(s, uniform),
        (s["feature_rank"] < 1.5, _ONE_LINE),
        (best_rank is not None and s["feature_rank"] < 0.5 * best_rank, _FALLING),
        (loss < 0.02, _EASY),
    ]


def _target_signs(s: dict[str, float], uniform: float) -> list[tuple[bool, str]]:
    """Signs that hold from the first epochs on. The target gap tells a flat start from a collapse.

    It is 0.25 nats at a ViT's random weights (temperature 0.07), 0.07 in a slow but healthy run, 0.002 at once and then
    0 in one whose teacher temperature was 0.5.
    """
    same = s["target_gap"] < 0.02
    return [
        (s["mean_entropy"] < 0.25 * uniform, _FEW_PROTOTYPES.format(math.exp(s["mean_entropy"]))),
        (same and s["target_entropy"] > 0.98 * uniform, _UNIFORM),
        (same, _SAME_TARGET),
    ]


_FEW_PROTOTYPES = (
    "Collapse to about {:.0f} of all prototypes: nearly every image has the same, sharp target, sharpening has beaten "
    "centring. Go back to a checkpoint before this; raise --teacher_temp and --warmup_teacher_temp, lower "
    "--center_momentum, lower --lr or warm it up for longer"
)
_UNIFORM = (
    "Uniform collapse: the targets are flat and the loss is pinned at ln K, so there is nothing to learn from. "
    "Sharpen them: lower --teacher_temp and --warmup_teacher_temp (0.04, then 0.02); also try a lower --lr, "
    "--use_bn_in_head, and milder crops (--blur_sigma 0.1 0.5, a larger first number of --local_crops_scale)"
)
_SAME_TARGET = (
    "The targets hardly differ between images, so the student learns one constant answer. Lower --teacher_temp, also "
    "try a lower --lr, --use_bn_in_head and milder crops, and check that the images are not all the same"
)
_NOT_LEARNING = (
    "The loss has never left ln K: targets differ, but the student hardly predicts them. Short runs on small sets can "
    "learn all the same, so look at the k-NN: if that does not rise either, try --use_bn_in_head, a lower "
    "--teacher_temp or --lr, and milder crops (--blur_sigma 0.1 0.5, a larger first number of --local_crops_scale)"
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
