"""Parts `step` and `sdpa` of gpu_report: the rate of a large matrix product, and attention by torch's backends."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._gpu_rows import Recipe, stream
from benchmarks.train_step import ceiling
from multicrop import cli
from multicrop.engine import stopwatch
from multicrop.engine.precision import set_tf32
from multicrop.models._attention import FUSED, attend_by

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}
PRODUCTS = tuple(f"matrix product, {precision}" for precision in DTYPES)
WIDTH, IMAGES = 192, 256  # of the published network; per step
VIEWS = {17: 8, 65: 2}  # tokens of a local and a global crop of 32 px: how many crops an image has
SHAPES = tuple(
    f"{precision}, {tokens} tokens, {WIDTH // width} heads of {width}"
    for precision in ("bf16", "fp32")
    for tokens in VIEWS
    for width in (16, 32, 48, 64)
)
BACKENDS = {"math": SDPBackend.MATH, **FUSED}


def measure(row: str, device: torch.device, tiny: bool) -> dict:
    return product(row, device) if row in PRODUCTS else attention(row, device, tiny)


def product(row: str, device: torch.device) -> dict:
    """The best rate of a square product (8192 on a GPU) in this precision."""
    precision = row.split(", ")[1]
    if device.type == "cuda":
        set_tf32(precision == "tf32")
    return {"tflop_per_second": round(ceiling(device, DTYPES[precision]) / 1e12, 3)}


def attention(row: str, device: torch.device, tiny: bool) -> dict:
    """Milliseconds of attention forward and backward by backend, and which is fastest; None where one refuses."""
    precision, tokens, heads, width = shape_of(row)
    images = 2 if tiny else IMAGES
    size = images * VIEWS[tokens], heads, tokens, width
    if device.type == "cuda":
        set_tf32(False)
    inputs = [
        torch.randn(size, device=device, dtype=DTYPES[precision], requires_grad=True)
        for _ in range(3)
    ]
    times, repeats = (1, 1) if tiny else (20, 5)

    def timed(attend: Callable[..., Tensor]) -> float:
        return round(stopwatch.milliseconds(attend, inputs, times, repeats), 4)

    found: dict[str, float | None] = {"plain": timed(partial(attend_by, "plain"))}
    found["torch's choice"] = timed(F.scaled_dot_product_attention)
    for name, backend in BACKENDS.items():
        found[name] = _or_none(timed, backend)
    fastest = min((ms, name) for name, ms in found.items() if ms is not None)[1]
    return {"ms": found, "fastest": fastest}


def _or_none(timed: Callable[..., float], backend: SDPBackend | None) -> float | None:
    """None where the backend does not take the shape; torch says why in warnings."""
    with warnings.catch_warnings(), sdpa_kernel(backend) if backend else nullcontext():
        warnings.simplefilter("ignore")
        try:
            return timed(F.scaled_dot_product_attention)
        except RuntimeError:
            return None


def shape_of(row: str) -> tuple[str, int, int, int]:
    """Precision, tokens, heads and the width of a head, of a row's name."""
    precision, tokens, heads = row.split(", ")
    count, _, _, width = heads.split(" ")
    return precision, int(tokens.split(" ")[0]), int(count), int(width)


if __name__ == "__main__":
    cli.main(Recipe, lambda r: stream(r, measure))
