import subprocess
import sys

import pytest

KEPT = """
from multicrop.engine.allocator import keep_memory
print(keep_memory())
"""
FAULTS = """
import resource, torch
from multicrop.engine.allocator import keep_memory

torch.set_num_threads(1)
print(keep_memory())
for _ in range(3):
    [torch.zeros(2 << 20) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.zeros(2 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def output(code: str, **environment) -> list[str]:
    """The words that code prints in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return run.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")
@pytest.mark.slow
def test_freed_memory_serves_the_next_tensor():
    """Page faults of ten times 32 MB of tensors, in pages of 4 kB: 80,000 if all of it were new.

    A busy system may take some back.
    """
    kept, count = output(FAULTS)
    assert kept == "True" and int(count) < 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")
def test_thresholds_of_the_environment_stay():
    assert output(KEPT, MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536") == ["False"]
