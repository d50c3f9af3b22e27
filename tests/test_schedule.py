import json

import numpy as np
import pytest

from multicrop.schedule import cosine, ramp


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
        cosine(step, steps, c["lr"], c["min_lr"], warmup, floor=c["min_lr"], plateau=False) for step in range(steps + 1)
    ]
    np.testing.assert_allclose(ours[:-1], recorded["finetune_lr"], atol=1e-12, rtol=0)
    assert ours[-1] == pytest.approx(float(recorded["finetune_lr_after_last"]), abs=1e-12)


def test_degenerate_lengths_stay_finite():
    assert cosine(0, 1, 1.0, 0.0) == 1.0
    assert cosine(0, 1, 1.0, 0.0, warmup=1, floor=0.25) == 0.25
    assert ramp(0, 0, 0.04, 0.07) == 0.07
    assert ramp(0, 1, 0.04, 0.07) == 0.04
    assert ramp(1, 1, 0.04, 0.07) == 0.07
