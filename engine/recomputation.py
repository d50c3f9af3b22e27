"""Activation checkpointing: a block keeps its input only, and computes the rest again in the backward pass.

Chen et al. 2016, arXiv 1604.06174, by torch.utils.checkpoint. Results are the same numbers: dropout and drop path draw
again what they drew, and what a block counts in the forward pass (statistics of batch norms) is not counted twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

from .blocks import blocks


def recompute_blocks(network: nn.Module) -> int:
    """Recompute the activations of its blocks from now on, wherever gradients are; how many blocks it has.

    Modules and names of parameters stay as they are. ValueError where nothing repeats.
    """
    repeated = blocks(network)
    if not repeated:
        raise ValueError(
            "--checkpoint_activations goes by the repeated blocks of a network, and "
            f"{type(network).__name__} has none: leave it out"
        )
    for block in repeated:
        block.forward = partial(_recomputed, block, block.forward)
    return len(repeated)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    written: list[nn.Module] | None = None  # None until the forward pass is done

    def run(*inputs: Any, **options: Any) -> Any:
        nonlocal written
        if written is None:
            before = _versions(block)
            output = forward(*inputs, **options)
            written = [
                module
                for module, versions in _versions(block).items()
                if versions != before[module]
            ]
            return output
        with _scratch_buffers(written):
            return forward(*inputs, **options)

    return checkpoint(run, *inputs, use_reentrant=False, **options)


def _versions(block: nn.Module) -> dict[nn.Module, list[int]]:
    """How often each buffer has been written, by the module that has it."""
    versions = {}
    for module in block.modules():
        buffers = [buffer for buffer in module._buffers.values() if buffer is not None]
        if buffers:
            versions[module] = [buffer._version for buffer in buffers]
    return versions


@contextmanager
def _scratch_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Copies of these modules' buffers in their place, which are thrown away afterwards."""
    own = [(module, dict(module._buffers)) for module in modules]
    for module, buffers in own:
        for name, buffer in buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for module, buffers in own:
            module._buffers.update(buffers)
