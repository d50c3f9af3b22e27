"""engine/lock.py: one process writes into a run folder."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from multicrop.engine import lock
from multicrop.engine.run import Run

HOLDER = """
import sys, time
from pathlib import Path
from multicrop.engine import lock
lock.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, holder):
    with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*, since 20"):
        lock.hold(tmp_path)


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path, holder):
    with pytest.raises(ValueError, match=f"in use by process {holder.pid}.*another --output_dir"):
        Run(tmp_path, {"lr": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]


def test_who_only_looks_keeps_nobody_out(tmp_path):
    """A report that asks whether a run goes on, at the moment in which it is started again."""
    path = tmp_path / lock.LOCK
    path.touch()
    with open(path, "rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        lock.hold(tmp_path)
    assert lock.is_held(tmp_path)
    lock.release(tmp_path)


def test_a_run_lets_go_of_its_folder_when_it_closes(tmp_path):
    run = Run(tmp_path, {"lr": 1.0})
    assert (tmp_path / lock.LOCK).exists()
    run.close()
    assert not (tmp_path / lock.LOCK).exists()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_process_left_is_taken_over_and_said(tmp_path, holder, kill):
    holder.send_signal(kill)
    holder.wait()
    said = []
    lock.hold(tmp_path, said.append)
    assert len(said) == 1 and f"taken over from process {holder.pid}" in said[0]
    lock.release(tmp_path)


def test_released_it_is_free_and_nothing_is_left(tmp_path):
    said = []
    for _ in range(2):
        lock.hold(tmp_path, said.append)
        lock.hold(tmp_path, said.append)  # the same process may open a folder again
        lock.release(tmp_path)
    assert said == [] and list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_keep_it(tmp_path):
    lock.hold(tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        lock.release(tmp_path)
        with open(tmp_path / lock.LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_disk_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(lock.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    lock.hold(Path(tmp_path), said.append)
    assert "without locks" in said[0]
