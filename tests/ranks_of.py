"""Run a script as several ranks, with the variables that torchrun sets: `ranks_of.py COUNT SCRIPT ...`, or
`ranks_of.py COUNT -m MODULE ...`.

torch and its companions take seconds of every process, so they are imported once, before the ranks fork. test_launch.py
starts ranks by torchrun itself.
"""

import os
import runpy
import socket
import sys


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def become(rank: int, script: str) -> None:
    """The rest of a rank's life."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = sys.argv[2:]
    if script == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


def main() -> None:
    import multicrop.commands.finetune
    import multicrop.commands.knn
    import multicrop.commands.pretrain  # noqa: F401

    count, script = int(sys.argv[1]), sys.argv[2]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    os.environ.update(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            become(rank, script)
            return
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
