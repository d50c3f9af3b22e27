"""What a step asks of a GPU, counted without one (pretended_cuda.py): none of it may grow."""

import json
import shutil
import subprocess
import sys

import pretended_cuda
import pytest
import torch

PROGRAM = pretended_cuda.__file__
# Launches of one step (in stage two of two parts) or probe, copies from pinned memory, times that the CPU waits for
# numbers (with the descriptors of grassmann, to hear whether a decomposition has converged), and MB that the launched
# operations read and write. Counted with torch 2.14; other versions compose some operations of others.
COUNTED_WITH, ELSEWHERE = "2.14.", 1.05
LIMITS = {
    "vit": (1008, 2, 0, 88.5),
    "vit, fp16, sgd": (1017, 2, 0, 88.5),
    "vit, fp16, lars": (1086, 2, 0, 122),
    "swin": (3503, 2, 0, 585.5),
    "cait": (1635, 2, 0, 164.4),
    "cct": (1011, 2, 0, 268.9),
    "resnet": (858, 2, 0, 157.7),
    "vit, two ranks": (1047, 2, 0, 93.7),
    "resnet, two ranks": (1065, 2, 0, 183.3),
    "manifold": (1957, 2, 0, 758.2),
    "grassmann": (1800, 2, 6, 603.6),
    "k-NN probe": (699, 12, 2, 1078.8),
    "k-NN probe in parts": (1315, 20, 2, 1867.6),
    "stage two": (970, 4, 0, 20.9),
    "stored maps": (3, 1, 0, 0.1),
    "evaluation": (10, 0, 0, 15.7),
    "check of the losses": (12, 0, 3, 0.1),
}


@pytest.fixture(scope="module")
def counted():
    """The numbers of each case, from a process of their own."""
    if pretended_cuda.needs_driver() and shutil.which("cc") is None:
        pytest.skip("no C compiler for the pretended driver")
    process = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", LIMITS)
def test_a_step_launches_moves_sends_and_reads_no_more_than_before(counted, case):
    launches, copies, reads, megabytes = LIMITS[case]
    if not torch.__version__.startswith(COUNTED_WITH):
        launches, megabytes = launches * ELSEWHERE, megabytes * ELSEWHERE
    found = counted[case]
    assert sum(found["launches"].values()) <= launches, found["launches"]
    assert sum(found["bytes"].values()) <= megabytes * 1e6, found["bytes"]
    assert sum(found["pinned"].values()) <= copies, found["pinned"]
    waits = found["reads"], found["back"]
    assert sum(sum(each.values()) for each in waits) <= reads, waits


@pytest.mark.slow
@pytest.mark.parametrize(("case", "norms"), [("vit, two ranks", 0), ("resnet, two ranks", 9)])
def test_two_ranks_meet_twice_in_a_step_and_for_each_norm(counted, case, norms):
    """Over all gradients and over the teacher's centre. A norm: forward of the teacher and of two sizes, backward of
    these two."""
    assert sum(counted[case]["collectives"].values()) == 2 + 5 * norms


@pytest.mark.slow
def test_a_step_waits_for_no_copy(counted):
    assert {case: found["pageable"] for case, found in counted.items() if found["pageable"]} == {}
