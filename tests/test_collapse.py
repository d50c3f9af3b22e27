"""probes/collapse.py: the statistics on cases with a known result, and the sentence that each collapse gets."""

import math
import time

import pytest
import torch

from multicrop.probes.collapse import CollapseMonitor, diagnosis, feature_statistics
from multicrop.ssl.objectives._targets import target_statistics

K, B, D = 64, 128, 24
LN_K = math.log(K)


def statistics(targets, features):
    return target_statistics(targets) | feature_statistics(features)


def diagnose(loss, metrics, best_rank=None, **options):
    """Of targets over K prototypes."""
    return diagnosis(loss, metrics, LN_K, K, best_rank=best_rank, **options)


def make(targets="own", features="spread"):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, B, K, generator=random)
    probabilities = {
        "own": (4 * logits).softmax(-1),
        "uniform": (0.01 * logits).softmax(-1),
        "one": torch.nn.functional.one_hot(torch.zeros(2, B, dtype=torch.long), K).float(),
        "same": (2 * logits[:1, :1]).softmax(-1).expand(2, B, K),
        "sharp": torch.nn.functional.one_hot(torch.arange(B) % K, K).float().expand(2, B, K),
    }[targets]
    vectors = torch.randn(B, D, generator=random)
    vectors = {
        "spread": vectors,
        "point": torch.ones(B, D) + 1e-3 * vectors,
        "few": vectors * (torch.arange(D) < 3),
    }[features]
    return statistics(probabilities, vectors)


def test_entropies_of_known_targets():
    assert make("uniform")["target_entropy"] == pytest.approx(LN_K, abs=1e-3)
    one = make("one")
    assert one["target_entropy"] == one["mean_entropy"] == 0.0
    sharp = make("sharp")
    assert sharp["target_entropy"] == 0.0
    assert sharp["mean_entropy"] == sharp["target_gap"] == pytest.approx(LN_K, abs=1e-5)
    half = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 3, 4)
    assert statistics(half, torch.randn(3, 2))["target_entropy"] == pytest.approx(
        math.log(2), abs=1e-6
    )


def test_feature_rank_is_rankme():
    random = torch.Generator().manual_seed(1)
    for shape in ((40, 12), (12, 40)):
        x = torch.randn(shape, generator=random)
        p = torch.linalg.svdvals(x.double())
        p = p / p.sum()
        expected = math.exp(-(p * p.log()).sum().item())
        assert statistics(torch.ones(1, 1, 1), x)["feature_rank"] == pytest.approx(
            expected, rel=1e-5
        )
    assert statistics(torch.ones(1, 1, 1), torch.eye(8)[torch.arange(64) % 8])[
        "feature_rank"
    ] == pytest.approx(8)
    assert make(features="point")["feature_rank"] < 1.05
    assert make(features="few")["feature_rank"] <= 3 + 1e-6
    assert math.isnan(
        statistics(torch.ones(1, 1, 1), torch.full((4, 3), float("nan")))["feature_rank"]
    )


def test_feature_spread_is_one_on_the_whole_sphere_and_zero_on_a_point():
    assert make()["feature_spread"] == pytest.approx(1, abs=0.05)
    assert make(features="point")["feature_spread"] < 0.01


def test_a_healthy_run_gets_no_advice():
    flat_start = {
        **make(),
        "target_entropy": 0.982 * LN_K,
        "mean_entropy": 0.9993 * LN_K,
        "target_gap": 0.072,
    }
    assert diagnose(0.993 * LN_K, flat_start) is None  # measured in a run whose feature rank rose
    assert diagnose(3.0, make()) is None
    assert diagnose(3.0, make(), best_rank=make()["feature_rank"]) is None


@pytest.mark.parametrize(
    ("loss", "case", "best_rank", "names", "advice"),
    [
        (LN_K, {"targets": "uniform"}, None, "Uniform collapse", "lower --teacher_temp"),
        (
            0.01,
            {"targets": "one", "features": "point"},
            None,
            "Collapse to about 1 of all prototypes",
            "raise --teacher_temp",
        ),
        (2.0, {"targets": "same"}, None, "hardly differ between images", "--use_bn_in_head"),
        (3.0, {"features": "point"}, None, "Feature rank near 1", "lower --lr"),
        (3.0, {"features": "few"}, 12.0, "fallen below half", "--weight_decay_end"),
        (
            0.01,
            {"targets": "sharp"},
            None,
            "almost 0 although targets differ",
            "--local_crops_scale",
        ),
    ],
)
def test_each_collapse_is_named_with_what_to_try(loss, case, best_rank, names, advice):
    sentence = diagnose(loss, make(**case), best_rank)
    assert names in sentence and advice in sentence
    assert f"ln K {LN_K:.2f}" in sentence and "\n" not in sentence


def test_early_on_only_targets_can_be_bad_news():
    point = make(features="point")
    assert diagnose(3.0, point) and diagnose(3.0, point, early=True) is None
    assert diagnose(LN_K, make("one"), early=True).startswith("Collapse to about 1 of all")
    assert "Uniform collapse" in diagnose(LN_K, make("uniform"), early=True)


def test_a_loss_that_never_left_ln_k_is_said_once_it_should_have():
    assert diagnose(LN_K, make()) is None
    assert diagnose(LN_K, make(), lowest_loss=0.9 * LN_K) is None
    assert "never left ln K" in diagnose(LN_K, make(), lowest_loss=0.99 * LN_K)


def targets(kind: str) -> torch.Tensor:
    logits = torch.randn(2, B, K, generator=torch.Generator().manual_seed(0))
    return ({"own": 4, "uniform": 0.001}[kind] * logits).softmax(-1)


def test_the_monitor_speaks_in_time_and_once():
    features = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    monitor = CollapseMonitor(LN_K, K, early=1, warm=10, late=30)
    assert monitor.warning(5) is None  # nothing was looked at
    monitor.update(LN_K, statistics(targets("uniform"), features))
    assert monitor.warning(0.5) is None
    assert "Uniform collapse" in monitor.warning(1) and monitor.warning(2) is None
    monitor.update(LN_K, statistics(targets("own"), torch.ones(B, D)))
    assert monitor.warning(9) is None
    assert "Feature rank near 1" in monitor.warning(10)
    monitor.update(LN_K, statistics(targets("own"), features))
    assert monitor.warning(29) is None and "never left ln K" in monitor.warning(30)


def test_the_monitor_recalls_a_run_that_is_resumed():
    features = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    few = features * (torch.arange(D) < 3)
    fresh, resumed = CollapseMonitor(LN_K, K, late=30), CollapseMonitor(LN_K, K, late=30)
    rows = [{"step": 1, "loss": 0.5 * LN_K, "feature_rank": 20.0}, {"step": 1, "knn_top1": 10.0}]
    resumed.recall(rows)
    for monitor in (fresh, resumed):
        monitor.update(LN_K, statistics(targets("own"), few))
    assert "never left" in fresh.warning(40) and "fallen below half" in resumed.warning(40)


def test_an_objective_without_targets_is_judged_by_loss_and_features():
    uninformed = math.log(2 * B - 1)
    features = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    monitor = CollapseMonitor(uninformed, warm=10, late=30)
    monitor.update(uninformed, feature_statistics(features))
    assert monitor.warning(29) is None
    assert "never left what it is without learning" in monitor.warning(30)
    monitor.update(2.0, feature_statistics(torch.ones(B, D)))
    assert monitor.warning(9) is None
    words = monitor.warning(10)
    assert "Feature rank near 1" in words and f"without learning {uninformed:.2f}" in words
    monitor.update(0.01, feature_statistics(features))
    assert monitor.warning(40).startswith("The loss is almost 0: ")
    for text in (words, monitor.warning(40) or ""):
        assert "teacher_temp" not in text and "ln K" not in text and "target" not in text


def test_it_is_cheap_enough_for_every_logging_interval():
    targets, features = torch.rand(2, 256, 1024).softmax(-1), torch.randn(512, 384)
    statistics(targets, features)
    start = time.perf_counter()
    for _ in range(3):
        statistics(targets, features)
    assert (
        time.perf_counter() - start
    ) / 3 < 0.5  # measured 0.03 s on one core; room for a busy machine
