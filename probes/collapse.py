"""Is the run collapsing? A few numbers of one batch, and what they mean in plain words.

Feature rank: RankMe, Garrido et al. 2023 (arXiv 2210.02885), eq. 1. The two collapses of self-distillation, to one
prototype and to the uniform distribution: Caron et al. 2021 (arXiv 2104.14294), section 5.3.
K prototypes, n features of width D. Entropies are in nats.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1024  # the features that the rank and the spread are taken from

Metrics = Mapping[str, float]


# Measuring


@torch.no_grad()
def feature_statistics(features: Tensor) -> dict[str, float]:
    """Backbone features (n, D) -> two numbers.

    feature_rank     RankMe, 1 (all on one line) to min(n, D)
    feature_spread   sqrt(D) x mean standard deviation of unit-length features: 1 fills the sphere, 0 is one point
    """
    features = features[:_ROWS].detach().cpu().double()
    return {"feature_rank": _rank(features), "feature_spread": _spread(features)}


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def _rank(features: Tensor) -> float:
    """exp of the entropy of the singular values. Gram matrix in float64: far cheaper than an SVD."""
    if not features.isfinite().all():
        return math.nan
    if features.shape[0] < features.shape[1]:
        features = features.T
    gram = features.T @ features
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return _entropy(values / total).exp().item()


def _spread(features: Tensor) -> float:
    width = features.shape[1]
    deviation = F.normalize(features, dim=1).std(0, correction=0).mean()
    return (width**0.5 * deviation).item()


# Judging


def diagnosis(
    loss: float,
    metrics: Metrics,
    uninformed_loss: float,
    prototypes: int | None = None,
    *,
    best_rank: float | None = None,
    early: bool = False,
    lowest_loss: float | None = None,
) -> str | None:
    """What these numbers of a run show, and what to try; None when nothing looks wrong.

    Loss in nats per pair of views; `uninformed_loss` is that of a network that tells nothing apart, ln K for targets
    over K `prototypes`. An objective without targets gives no `prototypes`, and `metrics` then lack the numbers of
    targets. `best_rank` is the highest feature rank so far in the run, `lowest_loss` the lowest loss, given once it
    should have left `uninformed_loss`. early=True, before the warm-up of the teacher temperature is over, asks only
    about the targets: in the first epochs every run is close to uniform and its features are poor.
    """
    has_targets = "target_gap" in metrics
    advice = None
    if has_targets:
        assert prototypes is not None
        advice = _target_advice(metrics, math.log(prototypes))
    if advice is None and not early:
        advice = _feature_advice(loss / uninformed_loss, metrics, best_rank, has_targets)
    if advice is None and lowest_loss is not None and lowest_loss > 0.98 * uninformed_loss:
        advice = _NOT_LEARNING if has_targets else _NOT_LEARNING_WITHOUT_TARGETS
    if advice is None:
        return None
    return f"{advice} ({_numbers(loss, metrics, uninformed_loss, has_targets)})"


class CollapseMonitor:
    """The metrics along a run: remembers the best feature rank and the lowest loss, and gives each diagnosis once.

    uninformed_loss, prototypes: as of `diagnosis`. Epochs: from `early` on it says what the targets show, from `warm`
    on all else, and from `late` on that the loss has never left `uninformed_loss`.
    """

    def __init__(
        self,
        uninformed_loss: float,
        prototypes: int | None = None,
        *,
        early: float = 0.0,
        warm: float = 0.0,
        late: float = math.inf,
    ) -> None:
        self.uninformed_loss, self.prototypes = uninformed_loss, prototypes
        self.early, self.warm, self.late = early, warm, late
        self.best_rank, self.lowest_loss = 0.0, math.inf
        self._latest: tuple[float, Metrics] | None = None
        self._given: set[str] = set()

    def recall(self, rows: Iterable[Metrics]) -> None:
        """Take up what a run logged before it was resumed."""
        for row in rows:
            self._remember(row.get("loss", math.inf), row.get("feature_rank", 0.0))

    def update(self, loss: float, metrics: Metrics) -> None:
        """The loss of one step and its statistics: `feature_statistics` and those of the objective."""
        self._remember(loss, metrics["feature_rank"])
        self._latest = loss, metrics

    def warning(self, epoch: float = math.inf) -> str | None:
        """What the latest numbers show, if it is bad news and has not been said yet; `epoch` may be a fraction."""
        if self._latest is None or epoch < self.early:
            return None
        loss, metrics = self._latest
        text = diagnosis(
            loss,
            metrics,
            self.uninformed_loss,
            self.prototypes,
            best_rank=self.best_rank,
            early=epoch < self.warm,
            lowest_loss=self.lowest_loss if epoch >= self.late else None,
        )
        if text is None or _finding(text) in self._given:
            return None
        self._given.add(_finding(text))
        return text

    def _remember(self, loss: float, rank: float) -> None:
        self.lowest_loss = min(self.lowest_loss, loss)
        self.best_rank = max(self.best_rank, rank)


def _target_advice(metrics: Metrics, uniform: float) -> str | None:
    """The most serious of what holds from the first epochs on. The target gap tells a flat start from a collapse.

    It is 0.25 nats at a ViT's random weights (temperature 0.07), 0.07 in a slow but healthy run, 0.002 at once and then
    0 in one whose teacher temperature was 0.5. uniform: ln K.
    """
    if metrics["mean_entropy"] < 0.25 * uniform:
        return _FEW_PROTOTYPES.format(math.exp(metrics["mean_entropy"]))
    all_alike = metrics["target_gap"] < 0.02
    if all_alike and metrics["target_entropy"] > 0.98 * uniform:
        return _UNIFORM
    if all_alike:
        return _SAME_TARGET
    return None


def _feature_advice(
    relative_loss: float, metrics: Metrics, best_rank: float | None, has_targets: bool
) -> str | None:
    """The most serious of what holds once a run is warm; the loss in units of the uninformed one."""
    if metrics["feature_rank"] < 1.5:
        return _ONE_LINE + _LOWER_TEACHER_TEMP if has_targets else _ONE_LINE
    if best_rank is not None and metrics["feature_rank"] < 0.5 * best_rank:
        return _FALLING
    if relative_loss < 0.02:
        return _EASY if has_targets else _EASY_WITHOUT_TARGETS
    return None


def _numbers(loss: float, metrics: Metrics, uninformed_loss: float, has_targets: bool) -> str:
    rank = f"feature rank {metrics['feature_rank']:.1f}"
    if not has_targets:
        return f"loss {loss:.2f}, without learning {uninformed_loss:.2f}, {rank}"
    return (
        f"loss {loss:.2f}, ln K {uninformed_loss:.2f}, target entropy {metrics['target_entropy']:.2f}, "
        f"of their mean {metrics['mean_entropy']:.2f}, {rank}"
    )


def _finding(text: str) -> str:
    """What a diagnosis says before it explains: up to the first colon or full stop."""
    return re.split("[:.]", text)[0]


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
_NOT_LEARNING_WITHOUT_TARGETS = (
    "The loss has never left what it is without learning: the views of one image are hardly told from those of others. "
    "Look at the k-NN: if that does not rise either, try a lower --lr and milder crops (--blur_sigma 0.1 0.5, a larger "
    "first number of --global_crops_scale)"
)
_ONE_LINE = (
    "Feature rank near 1: all images have almost the same feature. If it stays there, lower --lr or warm it up for "
    "longer (--warmup_epochs)"
)
_LOWER_TEACHER_TEMP = ", and try a lower --teacher_temp"
_FALLING = (
    "Feature rank has fallen below half of its best: features are losing directions. Trust the k-NN curve over the "
    "loss: if it falls too, use the checkpoint of its peak and run again with a lower --lr or --weight_decay_end"
)
_EASY = (
    "The loss is almost 0 although targets differ: the views are too easy to match. Make them harder: lower the first "
    "number of --global_crops_scale and --local_crops_scale, or take a larger --out_dim or batch"
)
_EASY_WITHOUT_TARGETS = (
    "The loss is almost 0: the views are too easy to match. Make them harder: lower the first number of "
    "--global_crops_scale, or take a larger batch"
)
