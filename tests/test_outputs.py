"""engine/outputs.py: a program goes on though its outputs are gone; and what is left of signals as it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from multicrop.engine.interrupt import Interrupt

ENDING = """
import atexit, sys, time
from multicrop.engine.interrupt import ending_at_once

def close_down():
    print("closing down", flush=True)
    time.sleep(60)

atexit.register(close_down)
with ending_at_once():
    sys.exit(int(sys.argv[1]))
"""


def gone() -> int:
    """The number of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("output", [gone, full_disk])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_run_whose_output_is_gone_is_finished(tmp_path: Path, output, name):
    if output is full_disk and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    words = [sys.executable, "train_ssl.py", "--device", "cpu", "--max_steps", "1"]
    words += ["--arch", "resnet8", "--image_size", "32", "--out_dim", "16", "--knn_freq", "0"]
    words += ["--batch_size_per_gpu", "2", "--output_dir", str(tmp_path / "run"), "--dataset"]
    words += ["shapes", "--datapath", str(tmp_path)]
    number = output()
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, name: number}
    try:
        done = subprocess.run(words, cwd=ROOT, text=True, timeout=120, **outputs)
    finally:
        os.close(number)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    if name == "stdout":
        assert '"status": "stopped"' in done.stderr and "Traceback" not in done.stderr
    else:
        assert '"status": "stopped"' in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_signal_while_it_closes_down_changes_no_exit_code(number, code):
    words = [sys.executable, "-c", ENDING, str(code)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "closing down\n"
        process.send_signal(number)
    assert process.returncode == code


def test_under_nohup_a_lost_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.asked
            signal.raise_signal(signal.SIGTERM)
            assert interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)
