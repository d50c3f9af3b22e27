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

LIMITS = {
    "fp32": 1e-3,
    "bf16": 0.1,
}  # above these a row says so: 20 times what rounding gives a deep network
IMAGE_SIZE = 32


def names() -> tuple[str, ...]:
    """Every family and every published size of it but for those that benchmarks/backbones.py leaves out, too."""
    families = [name for name in registry.names("models") if name != "timm"]
    known = [name for name in registry.variants() if not re.search(Backbones.skip, name)]
    return tuple(dict.fromkeys([*families, *known]))


def measure(row: str, device: torch.device, tiny: bool) -> dict:
    """Relative differences in fp32 and under bf16's autocast; drop rates are 0 in evaluation mode, gradients flow."""
    torch.manual_seed(0)
    model = registry.backbone(row, IMAGE_SIZE).eval()
    images = torch.randn(2 if tiny else 8, 3, IMAGE_SIZE, IMAGE_SIZE)
    if device.type == "cuda":
        set_tf32(False)
    expected = features_and_gradients(model, images)
    found: dict = {}
    for precision, limit in LIMITS.items():
        dtype = torch.bfloat16 if precision == "bf16" else None
        theirs = copy.deepcopy(model).to(device)
        values = features_and_gradients(theirs, images.to(device), dtype)
        for what, a, b in zip(("features", "gradients"), values, expected, strict=True):
            found[f"{precision}_{what}"] = difference(a, b)
        found[f"{precision}_ok"] = all(
            found[f"{precision}_{what}"] <= limit for what in ("features", "gradients")
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
