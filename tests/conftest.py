"""Where the tests find recorded numbers, and how they run the three scripts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # in a background job it is ignored, for our children too
torch.set_num_threads(1)  # the tests' tensors are tiny, and other tests may run beside


@pytest.fixture
def golden() -> Path:
    """The fixtures recorded from the published two-stage code."""
    return GOLDEN / "two_stage_ssl"


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """The full set of recorded numbers, where it lies beside the repository; the tests that need it skip elsewhere."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the full set of recorded numbers is not beside the repository")
    return folder


@pytest.fixture(scope="session", params=["committed", "full"])
def recordings(request) -> Path:
    """The folder of all recorded numbers, twice: the one here, some of its files trimmed, and the full set."""
    return GOLDEN if request.param == "committed" else request.getfixturevalue("shared_golden")


def launch(
    script: str, *flags, ranks: int = 1, timeout: float = 300, **environment
) -> subprocess.CompletedProcess:
    """Run a root script, or a command by its name, as a user would, on the CPU; .stdout ends with its JSON line."""
    program = [str(ROOT / script)] if script.endswith(".py") else ["-m", "multicrop", script]
    start = [sys.executable, *program]
    if ranks > 1:
        start = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(ranks),
            "--standalone",
            *program,
        ]
    words = [*start, *map(str, flags), "--device", "cpu"]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=env)


def result_of(process: subprocess.CompletedProcess) -> dict:
    """The JSON object on the last line of a script's standard output."""
    assert process.returncode in (0, 75), process.stderr
    return json.loads(process.stdout.strip().splitlines()[-1])
