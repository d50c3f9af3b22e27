"""A process of gpu_report that measures several rows: each is a line of JSON on standard output once it is there."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from multicrop.engine import ranks
from multicrop.engine.files import first_line

NEXT_PROCESS = 97
"""Exit code: a row is there, and the others need a process of their own."""


@dataclass(frozen=True)
class Recipe:
    """Measure rows of one part of gpu_report."""

    rows: tuple[str, ...] = ()
    """Which."""
    device: str = "cuda"
    """cuda, or cpu for a rehearsal."""
    tiny: bool = False
    """Small sizes and no repeats: a rehearsal."""


def stream(r: Recipe, measure: Callable[[str, torch.device, bool], dict]) -> dict:
    """Print a line for each row: what `measure(row, device, tiny)` gives, or why it failed."""
    device = ranks.start(r.device)
    for row in r.rows:
        try:
            found = measure(row, device, r.tiny)
        except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
            found = {"failed": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps({"row": row, **found}), flush=True)
        if "CUDA error" in found.get("failed", ""):  # every call after it fails as well
            sys.exit(NEXT_PROCESS)
    return {"rows_printed": len(r.rows)}
