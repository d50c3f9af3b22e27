"""engine/guard.py: what stops a run, and over which steps a logged loss is the mean."""

import json

import pytest
import torch

from multicrop.engine.guard import Guard


def test_the_loss_of_a_row_is_the_mean_since_the_row_before():
    guard = Guard()
    means = []
    for step, row in enumerate([False, False, True, False, True]):
        guard.add(step, torch.tensor(float(step)))
        means.append(guard.check(False, row=row)[1])
    assert means == [0.0, 0.5, 1.0, 3.0, 3.5]
    for step in (5, 6):  # checked once, as on a GPU
        guard.add(step, torch.tensor(float(step)))
    assert guard.check(True) == (True, 5.5)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_resumed_run_logs_the_mean_that_an_undisturbed_one_logs(at_once):
    """Losses whose sum depends on the order, checked one by one or, as on a GPU, several at once."""
    losses = [0.1, 1e7, 0.3, 0.7, 5.1]

    def run(guard: Guard, steps: range, row: bool) -> float:
        for step in steps:
            guard.add(step, torch.tensor(losses[step]))
            if not at_once:
                mean = guard.check(False, row=row and step == steps[-1])[1]
        return guard.check(False, row=row)[1] if at_once else mean

    stopped = Guard()
    run(stopped, range(3), row=False)
    resumed = Guard(json.loads(json.dumps(stopped.unlogged)))
    assert run(resumed, range(3, 5), row=True) == run(Guard(), range(5), row=True)
    assert resumed.unlogged == []


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_although_the_loss_is_fine(norm):
    guard = Guard()
    guard.add(7, torch.tensor(1.0), torch.tensor(2.0))
    guard.add(8, torch.tensor(1.0), torch.tensor(norm))
    with pytest.raises(FloatingPointError, match="not finite at step 8"):
        guard.check(False)


def test_the_first_step_that_is_not_finite_is_named():
    guard = Guard()
    for step, loss in ((3, 1.0), (4, float("inf")), (5, float("nan"))):
        guard.add(step, torch.tensor(loss))
    with pytest.raises(FloatingPointError, match=r"at step 4: .*checkpoint is intact"):
        guard.check(False)


def test_a_norm_changes_no_loss():
    guard = Guard()
    guard.add(0, torch.tensor(1.5), torch.tensor(1e30))
    assert guard.check(False) == (False, 1.5)
