"""Which arithmetic the networks run in."""

import os

import torch

from . import ranks

TYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type for torch.autocast, None for plain float32. "auto" is bf16 where a CUDA device computes in it.

    On a CPU bf16 is for the asking: some have it, and even there autocast's conversions can cost more than it saves.
    On CUDA it also sets, and says, whether products and convolutions of float32 numbers may be rounded to TF32.
    """
    if name in ("fp16", "tf32") and device.type != "cuda":
        raise ValueError(
            f"--precision {name} needs a CUDA device, not {device.type}: use fp32 or bf16"
        )
    if device.type == "cuda":
        set_tf32(name == "tf32")
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else None
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


def set_tf32(allowed: bool) -> None:
    """Whether CUDA may round the factors of float32 products and convolutions to TF32's 10 bits of fraction.

    torch's own default is a mixture: convolutions may, products may not. What must be exact whatever is set here says
    so itself (augment.device.exact_products).
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    # The older of torch's two interfaces: once the newer one is used, torch.compile fails to read them
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    if before == (torch.get_float32_matmul_precision(), allowed):
        return  # it has been said
    if allowed:
        ranks.log("TF32: products and convolutions of float32 numbers may be rounded to it")
    else:
        ranks.log("TF32 is off: what is computed in float32 is exact, convolutions too")


def choose_algorithms(device: torch.device, deterministic: bool) -> None:
    """Which of its algorithms CUDA takes; a CPU is left alone, and gives the same numbers for the same input anyway.

    deterministic: those that give the same numbers for the same input, at some cost in speed. Afterwards an operation
    that has no such form is a RuntimeError that names it. Without, cuDNN times its convolutions, for each shape that
    is new, and takes the fastest.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # Read when the first product is computed
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from torch._inductor import config as inductor

        if hasattr(inductor, "deterministic"):  # it times the kernels of --compile true otherwise
            inductor.deterministic = True
        torch.use_deterministic_algorithms(True)
        # It would also fill all memory that is not written yet, a launch for each tensor, and none of ours is read
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
