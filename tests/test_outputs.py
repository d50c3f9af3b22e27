"""engine/outputs.py: a program goes on though its outputs are gone; and what is left of signals as it ends."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, launch
from forks import GONE

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


@pytest.mark.parametrize("output", [GONE, "/dev/full"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_run_whose_output_is_gone_is_finished(colours, tmp_path, output, name):
    if output != GONE and not os.path.exists(output):
        pytest.skip("this system has no /dev/full")
    flags = f"""--max_steps 1 --arch resnet8 --image_size 16 --out_dim 16 --knn_freq 0 --batch_size_per_gpu 2
        --dataset image_folder --datapath {colours} --output_dir {tmp_path / "run"}"""
    done = launch("train_ssl.py", *flags.split(), outputs={name: output})
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
