"""What the benchmarks share: the machine that they ran on, and a clock that waits for the device."""

import platform
import time
from pathlib import Path

import torch


def machine(device: torch.device) -> dict:
    """What a reader needs to judge the numbers."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    cpu = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "device": name if device.type == "cuda" else (cpu or [name])[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def now(device: torch.device) -> float:
    """Seconds, after the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def status(pid: int, field: str) -> float:
    """A number of Linux's /proc/<pid>/status, in MB; elsewhere not a number.

    VmHWM is the peak of this program alone. getrusage's would be at least what the program that started it had.
    """
    path = Path(f"/proc/{pid}/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan")
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
