"""A rank whose peer is stopped: inside a collective of gradients it hears signals, ends in time, and says why."""

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from forks import free_port

from multicrop.engine.interrupt import Interrupt
from multicrop.engine.watch import Wait, is_ended_by_second, is_over, stop_seconds

# For each line (a port, and the seconds of the watch) two ranks that train, forked once all is imported
TRAINING = """
import os, sys
sys.path.insert(0, {root!r})
import torch, torch._dynamo
from multicrop.engine import ranks
from multicrop.engine.interrupt import RESUME_ME, Interrupt
from multicrop.engine.loop import Loop

def train():
    device, far = ranks.start("cpu"), 10**6
    with Interrupt() as interrupt:
        module = ranks.wrap(torch.nn.Linear(4, 4), device)
        lengths = dict(steps=far, stop=None, per_epoch=far, log_freq=far, save_steps=far)
        loop = Loop(interrupt, device, start=0, images=2, **lengths)
        for step in loop.steps():
            if step == 5:
                os.write(1, f"{{os.environ['RANK']}} {{os.getpid()}}\\n".encode())
            loss = module(torch.ones(2, 4)).square().sum()
            loss.backward()
            loop.end(loss.detach())
    ranks.stop()
    sys.exit(RESUME_ME if loop.stopped else 0)

for line in iter(sys.stdin.readline, ""):
    os.environ["MASTER_PORT"], os.environ["MULTICROP_STOP_SECONDS"] = line.split()
    children = []
    for rank in range(2):
        os.environ["RANK"] = str(rank)
        children.append(os.fork())
        if children[-1] == 0:
            train()
    _, status = os.waitpid(children[0], 0)
    os.write(1, f"{{os.waitstatus_to_exitcode(status)}}\\n".encode())
"""
LINE = "still waiting for another rank in step"


class Ranks:
    """Pairs of ranks, of which one trains at a time."""

    def __init__(self, log: Path):
        self.log = log
        environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(log, "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TRAINING.format(root=str(ROOT))],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        self.pids: list[int] = []

    def start(self, seconds: float) -> None:
        """The next pair; it is in its sixth step then."""
        self.log.write_text("")
        self.process.stdin.write(f"{free_port()} {seconds}\n".encode())
        named = dict(self.line().split() for _ in range(2))
        self.pids = [int(named[rank]) for rank in ("0", "1")]

    def stop_peer(self) -> None:
        os.kill(self.pids[1], signal.SIGSTOP)
        time.sleep(0.3)  # until the first waits for it

    def ask(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.pids[0], number)

    def is_alive(self) -> bool:
        return not self.has_line(0)

    def has_line(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def line(self) -> str:
        assert self.has_line(120), "no answer"
        return self.process.stdout.readline().decode()

    def end(self) -> tuple[int, str]:
        """Exit code of the first, and standard error of both."""
        if not self.has_line(20):
            os.kill(self.pids[0], signal.SIGKILL)
        code = int(self.line())
        with suppress(ProcessLookupError):
            os.kill(self.pids[1], signal.SIGKILL)
        return code, self.log.read_text()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    ranks = Ranks(tmp_path_factory.mktemp("ranks") / "errors")
    yield ranks
    os.killpg(ranks.process.pid, signal.SIGKILL)
    ranks.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_time_without_a_step_it_ends(ranks, number):
    ranks.start(seconds=1)
    ranks.stop_peer()
    ranks.ask(number)
    code, said = ranks.end()
    assert code == 75
    (line,) = [line for line in said.splitlines() if LINE in line]
    assert line.startswith("process 0: asked to stop 1 s ago, and")
    assert "what was saved before is intact" in line and "Traceback" not in said


def test_a_second_signal_ends_it_at_once(ranks):
    ranks.start(seconds=1000)
    ranks.stop_peer()
    ranks.ask()
    time.sleep(1.2)
    assert ranks.is_alive()
    ranks.ask()
    code, said = ranks.end()
    assert code == 75 and f"asked to stop once more, and {LINE}" in said


def test_ranks_that_answer_stop_together(ranks):
    ranks.start(seconds=1000)
    ranks.ask()
    code, said = ranks.end()
    assert code == 75 and LINE not in said


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
