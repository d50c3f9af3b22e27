import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
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


def faults(**environment) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of ten times 32 MB of tensors, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment
    )
    kept, count = run.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")
@pytest.mark.slow
def test_freed_memory_serves_the_next_tensor():
    kept, count = faults()
    assert (
        kept and count < 20_000
    )  # pages of 4 kB: 80,000 if all of it were new; a busy system may take some back


@pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")
@pytest.mark.slow
def test_thresholds_of_the_environment_stay():
    kept, _ = faults(MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept
