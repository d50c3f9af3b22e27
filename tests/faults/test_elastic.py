"""A job of one to two nodes loses one: the other goes on, at the run's global batch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import rows_of
from forks import free_port
from PIL import Image
from test_kills import command

STEPS = 60  # epochs of two steps: four are made before the kill, the others after it

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not Path("/proc").is_dir(), reason="needs bash and /proc"
)


def descendants(process: int) -> list[int]:
    """The processes that it has started, and those that they have."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in children for each in (int(child), *descendants(int(child)))]


@pytest.mark.slow
@pytest.mark.skipif("MULTICROP_FAULTS" not in os.environ, reason="a minute or two: `make faults`")
def test_a_lost_node_leaves_the_global_batch(tmp_path):
    images, folder = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for index in range(16):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment |= {"NPROC": "1", "NNODES": "1:2", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}

    def start(name: str) -> subprocess.Popen:
        with open(tmp_path / name, "wb") as log:
            words = command(images, folder, STEPS)
            return subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    nodes = [start("stays")]
    time.sleep(2)  # the first has the place where they meet
    nodes.append(start("is lost"))
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if (folder / "metrics.jsonl").exists() and len(rows_of(folder)) > 3:
                break
            time.sleep(0.1)
        for process in [nodes[1].pid, *descendants(nodes[1].pid)]:
            os.kill(process, signal.SIGKILL)
        code = nodes[0].wait(timeout=240)
        said = (tmp_path / "stays").read_text()
        assert code == 0, said[-3000:]
    finally:
        for node in nodes:
            if node.poll() is None:
                for process in [node.pid, *descendants(node.pid)]:
                    os.kill(process, signal.SIGKILL)
    assert "global batch 8 = 4 images x 2 ranks x 1 accumulated" in said
    assert "global batch 8 = 4 images x 1 ranks x 2 accumulated" in said
    assert "error (rank 0): process 1 on" in said
    steps = [row["step"] for row in rows_of(folder)]
    assert steps == sorted({*steps}) and steps[-1] == 2 * STEPS
