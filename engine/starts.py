"""starts.jsonl of a run folder: when and where a run was started or resumed, on which machine, and what it drew.

A run can do without it, and goes on where it cannot be written.
"""

import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import ranks, rows
from .files import append_line
from .optional import optional

STARTS = "starts.jsonl"
RAPL = Path("/sys/class/powercap")


class Start:
    """A row about one start of a run, written by rank 0 at its beginning, and again with its end."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / STARTS
        self._energy = joules()
        self._row: dict[str, Any] = {
            "started": round(time.time(), 3),
            "step": step,
            "machine": machine(),
        }
        self._append(self._row)

    def end(self) -> None:
        row = {**self._row, "ended": round(time.time(), 3)}
        spent = joules()
        if self._energy is not None and spent is not None and spent >= self._energy:
            row["joules"] = round(spent - self._energy)
        self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        with optional(str(self._path)):
            append_line(self._path, rows.line_of(row))


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """One row for each start, with its end where it came to one; lines that are none are left out."""
    written, _ = rows.parse(folder / STARTS)
    by_time = {
        row["started"]: row for row in written if isinstance(row.get("started"), int | float)
    }
    return list(by_time.values())


def verify_starts(path: Path) -> str | None:
    """As `rows.verify`."""
    return rows.verify(path, "only the report reads it, without those")


def machine() -> dict[str, Any]:
    """Plain values: processors or, where this process uses CUDA, cards; processes, torch, Python."""
    cards = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    names = [torch.cuda.get_device_name(index) for index in range(cards)]
    device = ", ".join(dict.fromkeys(names)) or _processor()
    return {
        "device": device,
        "cards": len(names),
        "threads": torch.get_num_threads(),
        "processes": ranks.world_size(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": sys.platform,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def joules() -> float | None:
    """What this machine's processors have drawn since its start, by all programs; None: not readable."""
    total = None
    try:
        for counter in sorted(RAPL.glob("intel-rapl:?/energy_uj")):  # AMD's too are called so
            total = (total or 0.0) + int(counter.read_text()) / 1e6
    except (OSError, ValueError):  # for root alone, mostly
        return None
    return total
