"""engine/loop.py: which step ends with what, and when the loop ends."""

import pytest
import torch

from multicrop.engine.interrupt import Interrupt
from multicrop.engine.loop import Loop

CPU = torch.device("cpu")


def loop(interrupt: Interrupt | None = None, device=CPU, **values) -> Loop:
    given = {
        "start": 0,
        "steps": 8,
        "stop": None,
        "per_epoch": 3,
        "images": 4,
        "log_freq": 2,
        "save_steps": 100,
        **values,
    }
    return Loop(interrupt or Interrupt(), device, **given)


def ends(course: Loop) -> list:
    return [course.end(torch.tensor(float(step))) for step in course.steps()]


def test_rows_saves_and_probes_fall_due_by_step_and_epoch_and_at_the_end():
    found = ends(loop())
    assert [status.step for status in found if status.logs] == [2, 4, 6, 8]
    assert [status.step for status in found if status.saves] == [3, 6, 8]
    assert [status.step for status in found if status.ended] == [3, 6] and [
        status.step for status in found if status.final
    ] == [8]
    assert [status.step for status in found if status.every(2)] == [6, 8] and not any(
        status.every(0) for status in found
    )
    assert [status.step for status in ends(loop(save_steps=2)) if status.saves] == [2, 3, 4, 6, 8]
    assert found[3].epoch == 1 and found[3].epochs == pytest.approx(4 / 3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_rows_loss_is_the_same_mean_on_a_cpu_and_on_a_gpu(device):
    """A CPU's numbers are looked at in every step, a GPU's (here: any other device's) only when a row is due."""
    course, rows = loop(device=torch.device(device)), []
    for step in course.steps():
        if course.end(torch.tensor(float(step))).logs:
            rows.append(course.loss)
    assert rows == [0.5, 2.5, 4.5, 6.5] and course.check_freq == (1 if device == "cpu" else 2)


def test_it_goes_on_where_a_run_stopped():
    course = loop(start=5)
    assert [status.step for status in ends(course)] == [6, 7, 8]
    assert course.result()["status"] == "finished" and course.result()["step"] == 8


def test_a_run_that_is_whole_says_so_and_keeps_its_loss(capsys):
    course = loop(start=8, loss=1.5)
    assert (
        ends(course) == []
        and "nothing left to do: the run folder is at step 8 of 8" in capsys.readouterr().err
    )
    assert (course.result()["status"], course.result()["loss"]) == ("finished", 1.5)


def test_a_stop_at_a_number_of_steps_is_no_end(capsys):
    course = loop(stop=5)
    assert [status.step for status in ends(course) if status.final] == [5]
    found = course.result()
    assert (found["status"], found["step"], found["steps"]) == ("stopped", 5, 8)
    assert "stopped at --max_steps 5 of 8 steps" in capsys.readouterr().err
    assert loop(stop=50).last == 8


def test_a_stop_ends_it_after_the_step_and_saves(capsys):
    interrupt = Interrupt()
    course = loop(interrupt)
    for step in course.steps():
        interrupt.asked = step == 3
        status = course.end(torch.tensor(1.0))
    assert status.step == 4 and status.saves
    assert course.result()["status"] == "interrupted" and "after step 4" in capsys.readouterr().err


def test_a_stop_before_the_first_step_ends_it_there():
    interrupt = Interrupt()
    interrupt.asked = True
    course = loop(interrupt)
    assert ends(course) == [] and course.result()["status"] == "interrupted"


def test_a_stop_in_the_last_step_is_a_finished_run():
    interrupt = Interrupt()
    course = loop(interrupt, start=7)
    for _ in course.steps():
        interrupt.asked = True
        course.end(torch.tensor(1.0))
    assert course.result()["status"] == "finished"


def test_numbers_that_are_not_finite_stop_before_anything_is_saved():
    course = loop()
    next(course.steps())
    with pytest.raises(FloatingPointError, match="step 0"):
        course.end(torch.tensor(1.0), torch.tensor(float("nan")))
