"""Pairs of ranks for the tests of lost and stopped ones, forked by a process that has imported all that they need."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from forks import ROOT, free_port

# For each line (a port, what the ranks do, and settings) two ranks; each says its number and process in its sixth step,
# and its number and exit code are said when it has ended
PROGRAM = """
import gc, os, sys, time
sys.path.insert(0, {root!r})
from dataclasses import dataclass
import torch, torch._dynamo
from multicrop import cli
from multicrop.engine import ranks, watch
from multicrop.engine.interrupt import RESUME_ME, Interrupt
from multicrop.engine.loop import Loop

@dataclass
class Recipe:
    pass

def say_begun():
    os.write(1, f"{{os.environ['RANK']}} {{os.getpid()}}\\n".encode())

def steps(ends):
    def run(recipe):
        ranks.start("cpu")
        for step in range(10**6):
            watch.begin_step(step)
            ranks.all_reduce_mean(torch.ones(4))
            watch.end_step()
            if step == 5:
                say_begun()
            if ranks.rank() == 1 and step == 8:
                ends()
    return run

def go_on():
    pass

def fail():
    raise ValueError("no such thing")

def hang():
    watch.begin_step(9)
    time.sleep(100)

def work_for_all(recipe):
    ranks.start("cpu")
    say_begun()
    seconds = float(os.environ["SECONDS_OF_WORK"])
    return {{"status": ranks.broadcast_object(lambda: time.sleep(seconds) or "worked", source=1)}}

def train():
    device, far = ranks.start("cpu"), 10**6
    with Interrupt() as interrupt:
        module = ranks.wrap(torch.nn.Linear(4, 4), device)
        lengths = dict(steps=far, stop=None, per_epoch=far, log_freq=far, save_steps=far)
        loop = Loop(interrupt, device, start=0, images=2, **lengths)
        for step in loop.steps():
            if step == 5:
                say_begun()
            loss = module(torch.ones(2, 4)).square().sum()
            loss.backward()
            loop.end(loss.detach())
    ranks.stop()
    sys.exit(RESUME_ME if loop.stopped else 0)

WORKS = dict(meet=steps(go_on), fail=steps(fail), hang=steps(hang), work=work_for_all)

gc.freeze()  # as in forks.py
for line in iter(sys.stdin.readline, ""):
    port, doing, *settings = line.split()
    children = []
    for rank in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            os.environ.update(setting.split("=") for setting in settings)
            os.environ.update(RANK=str(rank), MASTER_PORT=port)
            if doing == "train":
                train()
            cli.main(Recipe, WORKS[doing], [])
    for _ in range(2):
        child, status = os.waitpid(-1, 0)
        code = os.waitstatus_to_exitcode(status)
        os.write(1, f"{{children.index(child)}} {{code}}\\n".encode())
"""


class Pair:
    """Two ranks at a time. `log`: what they say on standard error; `pids`: their processes by their numbers."""

    def __init__(self, log: Path):
        self.log = log
        environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(log, "a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        self.pids: dict[int, int] = {}

    def start(self, doing: str, *settings: str) -> None:
        """The next two, which meet, fail, hang, work or train; both have begun then. settings: NAME=VALUE."""
        self.log.write_text("")
        words = [str(free_port()), doing, "MULTICROP_STEP_MINUTES=60", *settings]
        self._process.stdin.write(f"{' '.join(words)}\n".encode())
        self.pids = dict(self.pair() for _ in range(2))

    def pair(self) -> tuple[int, int]:
        """A rank's number, and its process as it begins or its exit code as it ends."""
        assert self.answers(60), "no answer"
        line = self._process.stdout.readline()
        if line.startswith(b"{"):  # the result
            return self.pair()
        rank, number = line.split()
        return int(rank), int(number)

    def answers(self, seconds: float) -> bool:
        """Whether a rank begins or ends within this time."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return bool(ready)

    def send(self, rank: int, number: int) -> None:
        """A signal."""
        os.kill(self.pids[rank], number)

    def end(self, rank: int) -> tuple[int, str]:
        """Exit code of a rank that ends first, and what was said; the other one is killed then."""
        first, code = self.pair()
        assert first == rank
        said = self.log.read_text()
        self.send(1 - rank, signal.SIGKILL)
        self.pair()
        return code, said

    def codes(self) -> dict[int, int]:
        """Exit codes of two that both end by themselves."""
        return dict(self.pair() for _ in range(2))

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
