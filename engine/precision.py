"""Which arithmetic the networks run in."""

import os

import torch

from . import ranks

TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type for torch.autocast, None for plain float32. "auto" is bf16 where a CUDA device computes in it.

    On a CPU bf16 is for the asking: some have it, and even there autocast's conversions can cost more than it saves.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
    if name == "fp16" and device.type != "cuda":
        raise ValueError(
            f"--precision fp16 needs a CUDA device, not {device.type}: use fp32 or bf16"
        )
    if (
        name == "bf16"
        and device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    ):
        # Measured: a bf16 matrix product of 1024 x 1024 took 150 times as long as one in fp32 (LOG.md).
        ranks.log(
            "warning: this processor has no bf16 arithmetic and emulates it, many times slower than fp32"
        )
    return TYPES[name]


def make_deterministic(device: torch.device) -> None:
    """Make CUDA give the same numbers for the same input, at some cost in speed; a CPU does so anyway.

    Afterwards an operation that has no such form is a RuntimeError that names it.
    """
    if device.type == "cuda":
        # Read when the first product is computed
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
