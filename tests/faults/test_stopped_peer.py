"""A rank whose peer is stopped: inside a collective of gradients it hears signals, ends in time, and says why."""

import os
import signal
import time

import pytest

from multicrop.engine.interrupt import Interrupt
from multicrop.engine.watch import Wait, is_ended_by_second, is_over, stop_seconds

LINE = "still waiting for another rank in step"


@pytest.fixture
def stopped_peer(pair):
    """Starts two ranks, of which the second is stopped then. seconds: MULTICROP_STOP_SECONDS."""

    def start(seconds: float) -> None:
        pair.start("train", f"MULTICROP_STOP_SECONDS={seconds}")
        pair.send(1, signal.SIGSTOP)
        time.sleep(0.3)  # until the first waits for it

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_time_without_a_step_it_ends(pair, stopped_peer, number):
    stopped_peer(seconds=1)
    pair.send(0, number)
    code, said = pair.end(0)
    assert code == 75
    (line,) = [line for line in said.splitlines() if LINE in line]
    assert line.startswith("process 0: asked to stop 1 s ago, and")
    assert "what was saved before is intact" in line and "Traceback" not in said


def test_a_second_signal_ends_it_at_once(pair, stopped_peer):
    stopped_peer(seconds=1000)
    pair.send(0, signal.SIGTERM)
    assert not pair.answers(seconds=1.2)
    pair.send(0, signal.SIGTERM)
    code, said = pair.end(0)
    assert code == 75 and f"asked to stop once more, and {LINE}" in said


def test_ranks_that_answer_stop_together(pair):
    pair.start("train", "MULTICROP_STOP_SECONDS=1000")
    pair.send(0, signal.SIGTERM)
    assert pair.codes() == {0: 75, 1: 75}
    assert LINE not in pair.log.read_text()


def test_a_slow_step_is_no_hang():
    wait = Wait("step 7", since=100.0, limited=True)
    assert is_over(wait, asked=110.0, now=141.0, limit=30.0, longest=10.0)
    assert not is_over(wait, asked=110.0, now=141.0, limit=30.0, longest=20.0)
    assert not is_over(wait._replace(since=120.0), asked=110.0, now=141.0, limit=30.0, longest=0.0)
    assert not is_over(wait._replace(limited=False), 110.0, now=1e6, limit=30.0, longest=0.0)


def test_signals_that_come_together_are_one():
    wait = Wait("step 7", since=100.0, limited=False)
    assert is_ended_by_second(wait, asked=110.0, now=112.0)
    assert not is_ended_by_second(wait, asked=110.0, now=110.1)
    assert not is_ended_by_second(wait._replace(since=111.0), asked=110.0, now=112.0)
    assert not is_ended_by_second(None, asked=110.0, now=112.0)


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "1e9"])
def test_a_time_that_is_no_number_of_seconds(monkeypatch, stated):
    monkeypatch.setenv("MULTICROP_STOP_SECONDS", stated)
    with pytest.raises(ValueError, match=f"MULTICROP_STOP_SECONDS={stated} is no number"):
        stop_seconds()


def test_a_forked_process_is_not_heard_and_holds_nothing_up(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    reader, writer = os.pipe()
    with Interrupt() as interrupt:
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent is done
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        time.sleep(0.1)
    assert not interrupt.asked  # and the thread has ended, though the child still lives
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    os.close(reader)
    assert signal.set_wakeup_fd(-1) == -1
