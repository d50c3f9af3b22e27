"""Ranks that are killed at random: under launch/torchrun.sh the run goes on by itself and ends bit-equal."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, launch, same
from PIL import Image

from multicrop.engine import checkpoint

SECONDS = float(
    os.environ.get("MULTICROP_KILL_SECONDS", 10)
)  # of kills; `make faults` has ten minutes
STEPS = 40

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not Path("/proc").is_dir(), reason="needs bash and /proc"
)


def flags(images: Path, folder: Path, steps: int) -> list[str]:
    words = f"""--device cpu --dataset images --arch vit --image_size 16 --embed_dim 16 --num_layers 2
        --num_heads 2 --out_dim 32 --local_crops_number 2 --batch_size_per_gpu 4 --epochs {steps} --warmup_epochs 1
        --warmup_teacher_temp_epochs 1 --knn_freq 0 --save_steps 1 --log_freq 3"""
    return [*words.split(), "--datapath", str(images), "--output_dir", str(folder)]


def command(images: Path, folder: Path, steps: int) -> list[str]:
    return [str(ROOT / "launch" / "torchrun.sh"), "train_ssl.py", *flags(images, folder, steps)]


def ranks_of(folder: Path) -> list[int]:
    """The processes that train in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile
        is_rank = words[0].endswith(sys.executable.encode()) and str(folder).encode() in words
        if (
            is_rank
            and b"train_ssl.py" in b" ".join(words)
            and b"torch.distributed.run" not in words
        ):
            found.append(int(process.name))
    return found


def restarts_before(process: int) -> int:
    """How often torchrun had started all ranks again before this one."""
    with suppress(OSError, StopIteration, ValueError):
        words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        name = b"TORCHELASTIC_RESTART_COUNT="
        return int(next(word for word in words if word.startswith(name)).removeprefix(name))
    return 0


@pytest.mark.slow
def test_random_kills_end_bit_equal(tmp_path, record_property):
    images = tmp_path / "images"
    images.mkdir()
    numbers = np.random.default_rng(0)
    for index in range(16):
        pixels = numbers.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    environment = {**os.environ, "PYTHON": sys.executable, "NPROC": "2", "OMP_NUM_THREADS": "1"}
    environment |= {"RESTARTS": "1000", "CUDA_VISIBLE_DEVICES": ""}
    steps = round(STEPS * max(1, SECONDS / 15))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = launch("train_ssl.py", *flags(images, whole, steps), ranks=2, timeout=1800)
    assert undisturbed.returncode == 0, undisturbed.stderr
    with open(tmp_path / "killed.log", "wb") as log:
        process = subprocess.Popen(
            command(images, killed, steps), env=environment, stdout=log, stderr=log
        )
    chance, kills, restarts = random.Random(0), 0, 0
    started = time.monotonic()
    while process.poll() is None and not (killed / "checkpoint.pt").exists():
        time.sleep(0.1)
    begun = time.monotonic()
    end = begun + SECONDS
    pause = 0.1  # the first kill comes at once: on a quiet machine the steps take seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(pause)
        ranks = ranks_of(killed)
        if ranks:
            restarts = max(restarts, *map(restarts_before, ranks))
            os.kill(chance.choice(ranks), signal.SIGKILL)
            kills += 1
        # Some while it starts, some while it trains
        pause = chance.uniform(0.5, 2 * (begun - started))
    seconds = time.monotonic() - begun
    while process.poll() is None and time.monotonic() < end + 1800:
        restarts = max([restarts, *map(restarts_before, ranks_of(killed))])
        time.sleep(1)
    figures = {"tries": kills, "kills": kills, "restarts": restarts, "seconds_of_kills": seconds}
    for name, value in figures.items():
        record_property(name, round(value))
    assert process.poll() == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert kills > 0 and restarts > 0
    same(*(checkpoint.load(folder / "checkpoint.pt").state for folder in (whole, killed)))
