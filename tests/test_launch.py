"""launch/: the shell scripts parse, start what they should, and pass "resume me" (75) on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from forks import free_port

LAUNCH = ROOT / "launch"
TORCHRUN, SBATCH = LAUNCH / "torchrun.sh", LAUNCH / "slurm.sbatch"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# What a rank of a script does: "ok", "fail" in rank 1, or "wait" for a signal and end with 75.
RANK = """
import os, pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
mode, folder, rank = sys.argv[1], pathlib.Path(sys.argv[2]), os.environ["RANK"]
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "MASTER_ADDR", "MASTER_PORT")
(folder / rank).write_text(" ".join(os.environ[name] for name in names))
if mode == "fail" and rank == "1":
    sys.exit("error: bad")
deadline = time.time() + 60
while mode != "ok" and not asked and time.time() < deadline:
    time.sleep(0.02)
sys.exit(75 if asked else 0 if mode == "ok" else 9)
"""


@pytest.fixture
def rank_script(tmp_path) -> Path:
    (tmp_path / "ranks").mkdir()
    script = tmp_path / "script.py"
    script.write_text(RANK)
    return script


def environment(**more: str) -> dict[str, str]:
    drop = ("OMP_NUM_THREADS", "NNODES", "NODE_RANK", "NPROC", "MASTER_ADDR")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return {**kept, "PYTHON": sys.executable, **more}


def torchrun(*words: object, **env: str) -> subprocess.CompletedProcess:
    line = [str(TORCHRUN), *map(str, words)]
    return subprocess.run(
        line, env=environment(**env), capture_output=True, text=True, timeout=300, cwd=ROOT
    )


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_it_is_bash_that_parses_and_stops_at_errors(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    if not path.name.startswith("_"):  # those are sourced
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        ((), {}, "which script?"),
        (("nothing.py",), {}, "there is no script"),
        (("train_ssl.py",), {"NPROC": "1", "NNODES": "2"}, "needs MASTER_ADDR"),
        (("train_ssl.py",), {"NPROC": "1", "NNODES": "2", "MASTER_ADDR": "x"}, "needs NODE_RANK"),
    ],
)
def test_torchrun_says_what_is_missing(words, env, message):
    done = torchrun(*words, **env)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_torchrun_reports_a_failure_even_where_the_other_ranks_could_resume(rank_script):
    done = torchrun(rank_script, "fail", rank_script.parent / "ranks", NPROC="2")
    assert done.returncode == 1
    assert "error: bad" in done.stderr


@pytest.mark.slow
def test_two_machines_meet(rank_script):
    folder = rank_script.parent / "ranks"
    more = {"NPROC": "1", "NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    line = [str(TORCHRUN), str(rank_script), "ok", str(folder)]
    nodes = [
        subprocess.Popen(line, env=environment(**more, NODE_RANK=rank), cwd=ROOT)
        for rank in ("0", "1")
    ]
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    assert [(folder / rank).read_text().split()[:3] for rank in ("0", "1")] == [
        ["0", "2", "0"],
        ["1", "2", "0"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_torchrun_starts_ranks_that_share_the_cores_and_hands_signals_on(rank_script, name):
    """As for a rank that is resumable: exit code 75."""
    folder = rank_script.parent / "ranks"
    line = [str(TORCHRUN), str(rank_script), "wait", str(folder)]
    running = subprocess.Popen(
        line, env=environment(NPROC="2"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 120
    while len(list(folder.iterdir())) < 2 and time.time() < deadline:
        time.sleep(0.1)
    running.send_signal(getattr(signal, name))
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75, said
    assert "Traceback" not in said
    threads = str(max(os.cpu_count() // 2, 1))
    started = [(folder / rank).read_text().split()[:4] for rank in ("0", "1")]
    assert started == [["0", "2", "0", threads], ["1", "2", "1", threads]]


@pytest.mark.slow
def test_torchrun_trains_on_two_gloo_ranks(colours, tmp_path):
    flags = {
        "device": "cpu", "embed_dim": 24, "num_layers": 1, "num_heads": 2, "out_dim": 32, "local_crops_number": 1,
        "batch_size_per_gpu": 8, "max_steps": 2, "knn_freq": 0, "output_dir": tmp_path / "run",
        "dataset": "image_folder", "datapath": colours, "image_size": 16,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    done = torchrun("train_ssl.py", *words, NPROC="2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert (found["status"], found["step"]) == ("stopped", 2)
    assert "16 = 8 images x 2 ranks" in done.stderr


def slurm(
    tmp_path: Path, script: Path, mode: str, code: int
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run the batch script with stand-ins for Slurm's commands; srun starts one task and reports `code`."""
    commands, calls = tmp_path / "bin", tmp_path / "calls"
    commands.mkdir()
    srun = f'echo "srun $1 $2 $3" >> {calls}\nshift 3\nSLURM_PROCID=3 SLURM_LOCALID=1 "$@" || exit $?\nexit {code}\n'
    scontrol = f'echo "scontrol $*" >> {calls}\n[ $1 != show ] || printf "node7\\nnode8\\n"\n'
    for name, text in (("srun", srun), ("scontrol", scontrol)):
        (commands / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (commands / name).chmod(0o755)
    more = {
        "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_NTASKS": "8",
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "123", "SLURM_CPUS_PER_TASK": "5",
    }  # fmt: skip
    line = ["bash", str(SBATCH), script.name, mode, str(tmp_path / "ranks")]
    done = subprocess.run(line, env=environment(**more), capture_output=True, text=True, timeout=60)
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_slurm_requeues_what_can_be_resumed(tmp_path, rank_script):
    done, calls = slurm(tmp_path, rank_script, "ok", code=75)
    assert done.returncode == 0, done.stderr
    assert calls[1:] == [
        "srun --kill-on-bad-exit=0 --wait=300 --cpus-per-task=5",
        "scontrol requeue 123",
    ]
    assert (tmp_path / "ranks" / "3").read_text().split() == ["3", "8", "1", "5", "node7", "10123"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_slurm_requeues_nothing_else(tmp_path, rank_script, code):
    done, calls = slurm(tmp_path, rank_script, "ok", code)
    assert done.returncode == code
    assert not any("requeue" in call for call in calls)


def test_slurm_names_a_missing_script(tmp_path):
    done, calls = slurm(tmp_path, tmp_path / "none.py", "ok", 0)
    assert done.returncode == 2 and "which script?" in done.stderr
    assert calls == []


def test_the_demo_takes_a_folder_with_spaces_and_starts_everything_in_it(tmp_path):
    """With an interpreter that only writes down what it is asked to run, and answers as the scripts do."""
    python, out = tmp_path / "python", tmp_path / "a folder"
    answer = json.dumps(
        {
            "results": [
                {"checkpoint": "raw pixels", "top1": {"20": 31.5}},
                {"checkpoint": "random weights, seed 0", "top1": {"20": 20.0}},
                {"checkpoint": "ssl/checkpoint.pt", "top1": {"20": 45.5}},
            ],
            "test_top1": 61.25,
        }
    )
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = - ]; then exec {sys.executable} "$@"; fi\n'
        f"line=$(printf '%s|' \"$@\"); echo \"$line\" >> '{tmp_path}/asked'\necho '{answer}'\n"
    )
    python.chmod(0o755)
    env = environment(PYTHON=str(python), OUT=str(out), SEEDS="0 1")
    done = subprocess.run(
        ["bash", str(ROOT / "launch/demo.sh")], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    asked = [line.strip("|").split("|") for line in (tmp_path / "asked").read_text().splitlines()]
    pages = sorted(words[:4] for words in asked[-2:])  # both at a time
    assert pages == [
        ["-m", "multicrop", "report", f"{out}/seed1/{stage}"] for stage in ("pretrained", "ssl")
    ]
    for seed, runs in enumerate((asked[:4], asked[4:8])):  # of two at a time either may be first
        run = f"{out}/seed{seed}"
        assert {words[0] for words in runs[:2]} == {"finetune.py", "train_ssl.py"}
        assert {words[0] for words in runs[2:]} == {"finetune.py", "eval_knn.py"}
        ends = [words[-4:] for words in runs if words[0] == "finetune.py"]
        assert ends[0][1:] == ["--scratch", "--output_dir", f"{run}/scratch"]
        assert ends[1] == [
            "--pretrained_weights",
            f"{run}/ssl",
            "--output_dir",
            f"{run}/pretrained",
        ]
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "+-" in line)
    assert {what: values.strip() for what, values in table.items()} == {
        "k-NN of raw pixels (k = 20)": "31.50 +- 0.00",
        "k-NN of random weights": "20.00 +- 0.00",
        "k-NN after pretraining": "45.50 +- 0.00",
        "scratch, last epoch": "61.25 +- 0.00",
        "finetuned from the checkpoint, last epoch": "61.25 +- 0.00",
    }
