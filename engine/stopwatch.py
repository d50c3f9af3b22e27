"""How long a device takes for an operation."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

AHEAD = 30_000_000  # cycles, about 20 ms


def milliseconds(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    times: int = 10,
    repeats: int = 5,
) -> float:
    """Of a call, and where inputs require gradients of its backward pass: the median of repeats of so many calls.

    On CUDA the device's own time, without its waiting for the host.
    """
    learned = [tensor for tensor in inputs if tensor.requires_grad]
    gradient: Tensor | None = None

    def once() -> None:
        nonlocal gradient
        with torch.set_grad_enabled(bool(learned)):
            output = function(*inputs)
        if learned:
            gradient = torch.randn_like(output) if gradient is None else gradient
            torch.autograd.grad(output, learned, gradient)

    for _ in range(3):
        once()
    timed = _on_cuda if inputs[0].is_cuda else _on_host
    return statistics.median(timed(once, times) for _ in range(repeats))


def _on_host(once: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        once()
    return 1000 * (time.perf_counter() - start) / times


def _on_cuda(once: Callable[[], None], times: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # Small operations take longer to launch than to run. So they are launched while the device does nothing for a
    # while, and then run one after the other, as in a CUDA graph or behind a longer operation.
    torch.cuda._sleep(AHEAD)
    start.record()
    for _ in range(times):
        once()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / times
