"""A process that has imported torch and the commands once, and forks one for every command line it is asked to run.

Importing them takes seconds, as much as a hundred steps of a tiny network, and a test that needs a process of its own
needs its exit code, its output and its ranks, not its imports. (What those cost, test_main.py watches; torchrun itself
starts ranks in test_launch.py.)
"""

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GONE = "gone"  # in place of an output's file: a pipe that nobody reads


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


class Server:
    """The process, as the tests see it; it starts with the first command."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def run(
        self,
        words: list[str],
        environment: dict[str, str],
        folder: Path,
        ranks: int,
        timeout: float,
        outputs: dict[str, str],
    ) -> subprocess.CompletedProcess:
        """Run `SCRIPT.py ...` or `-m MODULE ...`, by several ranks where asked; its output passes through `folder`.

        outputs: files that its stdout or stderr is in place of that, and which are not read; or GONE.
        """
        if self._process is None:
            self._process = self._start()
        out, err = folder / "stdout", folder / "stderr"
        request = {"words": words, "environment": environment}
        request |= {"out": outputs.get("stdout", str(out)), "err": outputs.get("stderr", str(err))}
        for name, file in (("stdout", out), ("stderr", err)):
            if name in outputs:
                file.touch()
        self._process.stdin.write(json.dumps({**request, "ranks": ranks}) + "\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self.stop()
                raise subprocess.TimeoutExpired(words, timeout, out.read_text(), err.read_text())
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

    def stop(self) -> None:
        """End it, and whatever it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )


# In the process


def main() -> None:
    import multicrop.commands.finetune
    import multicrop.commands.knn
    import multicrop.commands.pretrain  # noqa: F401

    gc.freeze()  # nor does a child look through what was imported for garbage, which takes two seconds as it ends
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            return
        print(exit_code(child), file=answers, flush=True)


def become(request: dict) -> None:
    """The rest of a child's life: the command, or the parent of its ranks."""
    for name, target in (("out", 1), ("err", 2)):
        opened = open_output(request[name])
        os.dup2(opened, target)
        os.close(opened)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["ranks"] > 1:
        rank = fork_ranks(request["ranks"])
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    first, *rest = request["words"]
    if first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def open_output(name: str) -> int:
    if name != GONE:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def fork_ranks(count: int) -> int:
    """With the variables that torchrun sets; it returns in the ranks, each with its number."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    os.environ.update(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            return rank
        children.append(child)
    sys.exit(max(abs(exit_code(child)) for child in children))


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
