"""Part `parity` of gpu_report: each network's features and gradients on a CPU in fp32 against the device's.

The numbers are |theirs - ours| / |ours| over all features, and over all gradients, of a batch of random images.
"""

import copy
import re

import torch
import torch.nn as nn
from torch import Tensor

from benchmarks._gpu_rows import Recipe, stream
from benchmarks.backbones import Recipe as Backbones
from multicrop import cli, registry
from multicrop.engine.precision import set_tf32

WHAT = ("features", "gradients")
FP32_LIMIT = 1e-3
# bf16 itself is far from fp32 in some networks (descriptors, more than 1), so it is held against the CPU's own bf16:
# a device may be so many times as far, and anything below the second number is rounding
BF16_TIMES, BF16_LIMIT = 3.0, 0.05
IMAGE_SIZE = 32


def names() -> tuple[str, ...]:
    """Every family and every published size of it but for those that benchmarks/backbones.py leaves out, too."""
    families = [name for name in registry.names("models") if name != "timm"]
    known = [name for name in registry.variants() if not re.search(Backbones.skip, name)]
    return tuple(dict.fromkeys([*families, *known]))


def measure(row: str, device: torch.device, tiny: bool) -> dict:
    """Differences from the CPU's fp32: of the device's fp32, of its bf16 by autocast, and of the CPU's bf16."""
    torch.manual_seed(0)
    model = registry.backbone(row, IMAGE_SIZE).eval()  # nothing is dropped, and gradients flow
    images = torch.randn(2 if tiny else 8, 3, IMAGE_SIZE, IMAGE_SIZE)
    if device.type == "cuda":
        set_tf32(False)
    expected = features_and_gradients(model, images)

    def differences(where: torch.device, dtype: torch.dtype | None) -> list[float]:
        theirs = features_and_gradients(copy.deepcopy(model).to(where), images.to(where), dtype)
        return [difference(a, b) for a, b in zip(theirs, expected, strict=True)]

    fp32 = differences(device, None)
    bf16, bf16_cpu = (differences(where, torch.bfloat16) for where in (device, torch.device("cpu")))
    found: dict = {}
    for name, values in (("fp32", fp32), ("bf16", bf16), ("bf16_cpu", bf16_cpu)):
        found |= {f"{name}_{what}": value for what, value in zip(WHAT, values, strict=True)}
    found["fp32_ok"] = max(fp32) <= FP32_LIMIT
    found["bf16_ok"] = all(
        a <= max(BF16_LIMIT, BF16_TIMES * b) for a, b in zip(bf16, bf16_cpu, strict=True)
    )
    return found


def features_and_gradients(
    model: nn.Module, images: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Features (B, dim) and all gradients of their weighted sum in one row, both float64 on the CPU."""
    model.zero_grad()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        features = model(images)
    weights = torch.linspace(-1, 1, features.numel()).view(features.shape).to(images.device)
    (features.float() * weights).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return features.detach().double().cpu(), torch.cat(gradients).double().cpu()


def difference(theirs: Tensor, ours: Tensor) -> float:
    """Relative, in the norm of all numbers together; infinite where a number is not finite."""
    if not theirs.isfinite().all():
        return float("inf")
    return float(f"{((theirs - ours).norm() / ours.norm().clamp_min(1e-30)).item():.3g}")


if __name__ == "__main__":
    cli.main(Recipe, lambda r: stream(r, measure))
