"""CUDA graphs of compiled networks: the launches of a pass are recorded once, and one call repeats them all.

torch.compile records and replays them (Inductor's "triton.cudagraphs", which is what its mode "reduce-overhead" adds).
What a replay writes lies in memory of the graphs, which the next one may write again. So each call is a step of its own
to torch, what it returns is a copy, and before any call gradients that an accumulation step has left there are copied.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from . import ranks

OPTIONS = {"triton.cudagraphs": True}  # of torch.compile
# At a time, up to which "auto" takes them. By a count of bytes and launches an H100 waits for its host at 64 and not at
# 256 (docs/gpu.md); their memory is not shared with anything else, which matters where batches are large.
MOST_IMAGES = 128
LIMIT = 0.01  # what a replay may differ from what it repeats: backward passes add in any order
left_out: list[str] = []
"""Why networks of this process run without graphs that they were to have."""


class Choice(NamedTuple):
    on: bool
    words: str
    """What is said of it before the first step; "" where nothing is compiled."""


def choose(
    setting: bool | Literal["auto"], compiles: bool, device: torch.device, images: int
) -> Choice:
    """What --graph asks for, of networks that are compiled or not and see so many images at a time.

    ValueError where it asks for what cannot be.
    """
    if setting is True and device.type != "cuda":
        raise ValueError(f"--graph true is for CUDA, not {device.type}: leave it out")
    if setting is True and ranks.has_group():
        raise ValueError("--graph true is for one process without torchrun: leave it out")
    if setting is True and not compiles:
        raise ValueError("--graph true is for networks that are compiled: add --compile true")
    if setting is False or not compiles or device.type != "cuda":
        return Choice(False, "")
    if setting is True:
        return Choice(True, "as CUDA graphs, ")
    if ranks.has_group():
        return Choice(False, "without CUDA graphs, which are for one process, ")
    if torch.are_deterministic_algorithms_enabled():
        return Choice(False, "without CUDA graphs, which --graph true adds to --deterministic, ")
    if images > MOST_IMAGES:
        few = f"up to {MOST_IMAGES} images at a time"
        return Choice(False, f"without CUDA graphs (auto takes them {few}, --graph true always), ")
    return Choice(True, "as CUDA graphs (--graph false leaves them out), ")


class Graphs:
    """The graphs of the networks that a step calls."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []

    def replaying(self, compiled: Callable, module: nn.Module) -> Callable:
        """What to call in place of a module's function that was compiled with OPTIONS."""
        self._parameters += module.parameters()

        def call(*args: Any, **kwargs: Any) -> Any:
            self._bring_out_gradients()
            torch.compiler.cudagraph_mark_step_begin()
            return tree_map_only(Tensor, torch.clone, compiled(*args, **kwargs))

        return call

    def _bring_out_gradients(self) -> None:
        """There are some between the parts of a step alone."""
        pairs = [(each, each.grad) for each in self._parameters if each.grad is not None]
        if pairs:
            copies = torch._foreach_mul([gradient for _, gradient in pairs], 1.0)
            for (parameter, _), copy in zip(pairs, copies, strict=True):
                parameter.grad = copy


def try_out(
    call: Callable, module: nn.Module, args: Any, kwargs: Any, restore: Callable[[], None]
) -> None:
    """Warm up, record and replay forward and backward pass. RuntimeError where the replay does something else.

    restore: puts random numbers and buffers back as they were.
    """
    results, skipped = [], _skipped()
    for _ in range(3):
        try:
            results.append(_results(call, module, args, kwargs))
        finally:
            restore()
    if _skipped() > skipped:
        raise RuntimeError("torch records none of what they do (TORCH_LOGS=perf_hints says why)")
    apart = difference(results[0], results[-1])
    if not apart <= LIMIT:
        raise RuntimeError(f"a replay differs by {100 * apart:.2g} % from what it repeats")


def forget(reason: str) -> None:
    """Give the memory of all graphs back, so far as torch lets go of it."""
    left_out.append(reason)
    with suppress(Exception):  # it may be in the middle of a recording that failed
        from torch._inductor.cudagraph_trees import reset_cudagraph_trees

        reset_cudagraph_trees()


def _skipped() -> int:
    """How many graphs torch has not recorded, which it logs at most."""
    from torch._dynamo.utils import counters  # takes a second

    return counters["inductor"]["cudagraph_skips"]


def _results(call: Callable, module: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    """Copies of all that a call and its backward pass write: outputs, buffers, gradients."""
    outputs = [leaf for leaf in tree_leaves(call(*args, **kwargs)) if isinstance(leaf, Tensor)]
    results = [*outputs, *(buffer.clone() for buffer in module.buffers())]
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    ends = [output for output in outputs if output.requires_grad]
    if ends and learned:
        starts = [torch.full_like(end, end.numel() ** -0.5) for end in ends]
        gradients = torch.autograd.grad(ends, learned, starts, allow_unused=True)
        results += [gradient.clone() for gradient in gradients if gradient is not None]
    return [result.detach() for result in results]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """The norm of what differs, as a share of the norm of all numbers."""
    pairs = [(a.float(), b.float()) for a, b in zip(one, other, strict=True)]
    apart = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    return (apart / torch.stack([a.norm() for a, _ in pairs]).norm()).item()
