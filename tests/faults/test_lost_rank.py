"""A rank that is lost, fails, hangs, or is stopped: the others say which one, on which host, and in which step."""

import signal
import socket

import pytest

from multicrop.engine import ranks
from multicrop.engine.heartbeat import heartbeat_seconds

HOST = socket.gethostname()
QUICK = "MULTICROP_HEARTBEAT_SECONDS=3"  # so that heartbeats come every second


def the_line(said: str, words: str) -> str:
    (line,) = [line for line in said.splitlines() if words in line]
    assert "Traceback" not in said
    return line


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_is_named(pair, lost):
    pair.start("meet", QUICK)
    pair.send(lost, signal.SIGKILL)
    assert pair.pair() == (lost, -signal.SIGKILL)
    rank, code = pair.pair()
    assert (rank, code) == (1 - lost, 1)
    line = the_line(pair.log.read_text(), "error (rank")
    if lost == 0:
        assert "process 0 on 127.0.0.1 is gone" in line  # with the store
    else:
        assert f"process 1 on {HOST} has not been heard of for" in line


def test_a_rank_that_fails_is_named_at_once(pair):
    pair.start("fail", "MULTICROP_HEARTBEAT_SECONDS=600")
    assert pair.codes() == {0: 1, 1: 2}
    said = pair.log.read_text()
    assert "error (rank 1): no such thing" in said
    assert f"error (rank 0): process 1 on {HOST} has failed" in said


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_is_stopped_is_given_up_and_named(pair, stopped):
    pair.start("meet", QUICK)
    pair.send(stopped, signal.SIGSTOP)
    code, said = pair.end(1 - stopped)
    line = the_line(said, "ended unsaved")
    host = "127.0.0.1" if stopped == 0 else HOST
    assert code == 1 and line.startswith(f"process {1 - stopped}: waits in ")
    assert f"process {stopped} on {host} has not been heard of for" in line
    assert "MULTICROP_HEARTBEAT_SECONDS=3" in line


@pytest.mark.slow
def test_a_rank_that_lives_and_does_not_answer_is_named_with_its_step(pair):
    pair.start("hang", QUICK, "MULTICROP_STEP_MINUTES=0.02")
    code, said = pair.end(0)
    assert code == 1
    assert f"process 1 on {HOST} lives and does not answer in step 9" in the_line(
        said, "error (rank 0)"
    )


@pytest.mark.slow
def test_who_works_for_all_is_waited_for_as_long_as_it_lives(pair):
    """Longer than a rank may be silent."""
    pair.start("work", "SECONDS_OF_WORK=6", QUICK)
    assert pair.codes() == {0: 0, 1: 0}


@pytest.mark.slow
def test_who_works_for_all_and_is_heard_of_no_more_is_given_up(pair):
    pair.start("work", "SECONDS_OF_WORK=100", QUICK)
    pair.send(1, signal.SIGSTOP)
    code, said = pair.end(0)
    line = the_line(said, "ended unsaved")
    assert code == 1 and line.startswith("process 0: waits in what one of them does for all")
    assert f"process 1 on {HOST} has not been heard of for" in line


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "1e9"])
def test_a_time_that_is_no_number_of_seconds(monkeypatch, stated):
    monkeypatch.setenv("MULTICROP_HEARTBEAT_SECONDS", stated)
    with pytest.raises(ValueError, match=f"MULTICROP_HEARTBEAT_SECONDS={stated} is no number"):
        heartbeat_seconds()


@pytest.fixture
def met(monkeypatch):
    """As if two ranks had met; what TCPStore is asked for."""
    asked: dict = {}
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "TCPStore", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(ranks.dist, "PrefixStore", lambda prefix, store: Answering())
    return asked


class Answering:
    """A store that answers."""

    def __init__(self) -> None:
        self.said: dict[str, bytes] = {}

    def set(self, key, value):
        self.said[key] = value.encode()

    def multi_get(self, keys):
        return [self.said.get(key, b"") for key in keys]


def test_a_silent_store_is_waited_for_and_no_thread_is_left_at_the_end(met):
    heartbeat = ranks._start_heartbeat()
    assert heartbeat is not None and heartbeat._asking.is_alive()
    assert met["timeout"].days >= 1, "torch's 5 minutes would end a job that was suspended"
    assert met["use_libuv"] is False, "on Windows torch has none"
    heartbeat.end(failed=True)
    assert not heartbeat._asking.is_alive()


def test_ranks_that_cannot_have_heartbeats_go_on_without(met, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no route to here")

    monkeypatch.setattr(ranks.dist, "TCPStore", refuse)
    assert ranks._start_heartbeat() is None
    assert (
        "process 0 has no heartbeats, so a lost process is not named: no route"
        in capsys.readouterr().err
    )
