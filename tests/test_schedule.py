import json

import numpy as np
import pytest
from conftest import GOLDEN

from multicrop.engine.schedule import cosine, epoch_cosine, scheduled_epoch
from multicrop.ssl.objectives.dino import ramp


def rates(c: dict, step: int) -> tuple:
    n, steps = c["niter_per_ep"], c["epochs"] * c["niter_per_ep"]
    peak = c["lr"] * c["batch_size_per_gpu"] * c["world_size"] / 256
    return (
        cosine(step, steps, peak, c["min_lr"], warmup=c["warmup_epochs"] * n),
        cosine(step, steps, c["weight_decay"], c["weight_decay_end"]),
        cosine(step, steps, c["momentum_teacher"], 1.0),
    )


@pytest.mark.parametrize("case", ["small", "default"])
def test_stage_one_schedules_are_the_published_ones(golden, case):
    recorded = np.load(golden / "schedules.npz")
    config = json.loads(str(recorded[f"{case}_config"]))
    steps = recorded["default_index"] if case == "default" else range(len(recorded["small_lr"]))
    ours = np.array([rates(config, int(step)) for step in steps])
    theirs = np.stack([recorded[f"{case}_{name}"] for name in ("lr", "wd", "momentum")], axis=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", ["small", "default"])
def test_teacher_temperature_is_the_published_one(golden, case):
    recorded = np.load(golden / "schedules.npz")
    c = json.loads(str(recorded[f"{case}_config"]))
    warm, start, end = c["warmup_teacher_temp_epochs"], c["warmup_teacher_temp"], c["teacher_temp"]
    ours = [ramp(epoch, warm, start, end) for epoch in range(c["epochs"])]
    np.testing.assert_allclose(ours, recorded[f"{case}_teacher_temp"], atol=1e-12, rtol=0)


def test_stage_two_schedule_is_the_published_one(golden):
    recorded = np.load(golden / "schedules.npz")
    c = json.loads(str(recorded["finetune_config"]))
    n = c["iters_per_epoch"]
    steps, warmup = c["epochs"] * n, c["warmup"] * n
    ours = [
        cosine(step, steps, c["lr"], c["min_lr"], warmup, floor=c["min_lr"], plateau=False)
        for step in range(steps + 1)
    ]
    np.testing.assert_allclose(ours[:-1], recorded["finetune_lr"], atol=1e-12, rtol=0)
    assert ours[-1] == pytest.approx(float(recorded["finetune_lr_after_last"]), abs=1e-12)


def test_degenerate_lengths_stay_finite():
    assert cosine(0, 1, 1.0, 0.0) == 1.0
    assert cosine(0, 1, 1.0, 0.0, warmup=1, floor=0.25) == 0.25
    assert ramp(0, 0, 0.04, 0.07) == 0.07
    assert ramp(0, 1, 0.04, 0.07) == 0.04
    assert ramp(1, 1, 0.04, 0.07) == 0.07


@pytest.mark.parametrize("case", ["cifar", "domainnet", "imagenet", "finetune"])
def test_dhvt_rates_lag_an_epoch_as_published(case):
    recorded = np.load(GOLDEN / "dhvt" / "recipe_numbers.npz")
    c = json.loads(str(recorded["meta"]))["schedules"][case]
    ours = [
        epoch_cosine(
            scheduled_epoch(7 * epoch + 6, 7, lag=1),
            c["epochs"],
            c["effective_lr"],
            c["min_lr"],
            c["warmup"],
            1e-6,
        )
        for epoch in range(c["epochs"])
    ]
    np.testing.assert_allclose(ours, recorded[f"lr/{case}"], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("case", "peak", "end", "warmup", "floor"),
    [("adamw_cos_warm20", 5e-4, 5e-6, 20, 5e-7), ("sgd_cos_nowarm", 0.1, 0.0, 0, 0.0)],
)
def test_locality_guidance_rates_are_the_published_ones(case, peak, end, warmup, floor):
    recorded = np.load(GOLDEN / "locality_guidance" / "schedules.npz")[f"lr/{case}"]
    ours = [epoch_cosine(epoch, 300, peak, end, warmup, floor) for epoch in range(300)]
    np.testing.assert_allclose(ours, recorded, rtol=1e-6, atol=1e-9)  # recorded in single precision


def test_compact_transformer_rates_cool_down_at_the_end_rate():
    """The values that the published CIFAR-10 run of 310 epochs shows."""
    rates = {epoch: epoch_cosine(epoch, 300, 5.5e-4, 1e-5, 10, 1e-5) for epoch in range(310)}
    shown = {0: 1e-5, 1: 6.4e-5, 9: 4.96e-4, 10: 5.485e-4, 100: 4.15e-4}
    assert {epoch: rates[epoch] for epoch in shown} == pytest.approx(shown, rel=1e-3)
    assert all(rates[epoch] == pytest.approx(1e-5, abs=1e-12) for epoch in range(300, 310))


def test_the_scheduled_epoch_lags_but_never_before_the_first():
    assert [scheduled_epoch(step, 3) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [scheduled_epoch(step, 3, lag=1) for step in range(7)] == [0, 0, 0, 0, 0, 0, 1]


def test_a_cosine_counted_from_the_start_takes_fractions_and_no_epochs():
    assert epoch_cosine(0.5, 10, 1.0, 0.0, warmup=1) == 0.5
    assert epoch_cosine(5.0, 10, 1.0, 0.0, warmup=1) == pytest.approx(0.5)
    assert epoch_cosine(0, 0, 1.0, 0.25) == 1.0 and epoch_cosine(1, 0, 1.0, 0.25) == 0.25
