"""How the C library keeps the memory that tensors on a CPU leave."""

import ctypes
import os
import sys

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
LARGE = 32 << 20  # bytes: where glibc's own adaptive threshold ends
KEPT = 512 << 20  # bytes of free memory at the end of the heap


def keep_memory() -> bool:
    """Keep freed memory for the next tensor instead of giving it back to the system at once; True where that works.

    Every step allocates and frees the same megabytes. By default glibc returns them each time, and the system clears
    every page anew: 4,000 page faults for the crops of 128 images, which made them 1.6 times as dear (LOG.md). Does
    nothing where the environment sets malloc's thresholds itself (MALLOC_*, GLIBC_TUNABLES), or without glibc.
    """
    asked = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )
    if asked or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP, LARGE)) and bool(mallopt(TRIM, KEPT))
