"""torch.compile, and the plain arithmetic where the compiler fails."""

from collections.abc import Callable
from contextlib import nullcontext
from types import FunctionType
from typing import Any, Literal

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import ranks, watch
from .files import first_line

BACKEND: Any = "inductor"


def is_wanted(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """What --compile asks for on a device. "auto": on CUDA, but not with --deterministic, where it is untried."""
    if setting == "auto":
        return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    return setting


def in_words(setting: bool | Literal["auto"], device: torch.device) -> str:
    """What is said of it before the first step; "" where nothing is compiled."""
    if not is_wanted(setting, device):
        return ""
    return "compiled (the first step can take minutes; --compile false leaves it out), "


class Compiler:
    """Compiles functions and modules, a graph for each kind of arguments (their shapes, gradients or not, training or
    not), until the compiler fails for one of them: then one line says why, and all of its go on as they are written.

    What fails is a first call of a kind, backward pass included. It leaves no trace: random numbers and the module's
    buffers are as before when the call is made again.
    """

    def __init__(self, on: bool, what: str = "the networks") -> None:
        """what: it compiles, for the line that says that it does not."""
        self.on, self.what = on, what

    def module(self, module: nn.Module) -> None:
        """Compile what a call of a module does, in place."""
        if self.on:
            call = module._call_impl  # as nn.Module.compile has it
            module._compiled_call_impl = self.function(call, module)

    def function(self, function: Callable, module: nn.Module | None = None) -> Callable:
        """The function, compiled. module: whose buffers it changes."""
        if not self.on:
            return function
        compiled = torch.compile(_with_code_of_its_own(function), backend=BACKEND, dynamic=False)
        compiled_kinds: set[tuple] = set()

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on or torch.compiler.is_compiling():  # as a part of a larger graph
                return function(*args, **kwargs)
            kind = _kind(module, (args, kwargs))
            if kind in compiled_kinds:
                return compiled(*args, **kwargs)

            # The first of its kind, which compiles.
            before = _Before(module, args)
            try:
                with watch.waiting("what it compiles first", False), _backward_is_compiled_too():
                    result = compiled(*args, **kwargs)
            except Exception as error:  # of the compiler, in any of its parts
                reason = _reason(error)
                _check_no_rank_waits(module, self.what, reason)
            else:
                compiled_kinds.add(kind)
                return result
            before.restore()
            self.on = False  # for the modules inside, too
            result = function(*args, **kwargs)  # raises what is not the compiler's fault
            ranks.log(f"{self.what} are not compiled, which is slower: {reason}")
            return result

        return call


def _check_no_rank_waits(module: nn.Module | None, what: str, reason: str) -> None:
    """RuntimeError where a call that is made again would add up statistics with ranks for whom it did not fail."""
    norms = (
        [part for part in module.modules() if isinstance(part, nn.SyncBatchNorm)] if module else []
    )
    if norms and ranks.world_size() > 1:
        raise RuntimeError(
            f"{what} cannot be compiled on process {ranks.rank()}, and the others may go on in step: give "
            f"--compile false: {reason}"
        ) from None


class _Before:
    """The random states and a module's buffers before a call that may fail."""

    def __init__(self, module: nn.Module | None, args: Any) -> None:
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if module else []
        leaves = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        self.cuda = {leaf.device for leaf in leaves if leaf.is_cuda}
        self.states = [torch.cuda.get_rng_state(device) for device in self.cuda]
        self.state = torch.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        for buffer, value in self.buffers:
            buffer.copy_(value)
        for device, state in zip(self.cuda, self.states, strict=True):
            torch.cuda.set_rng_state(state, device)
        torch.set_rng_state(self.state)


def _with_code_of_its_own(function: Callable) -> Callable:
    """torch keeps at most 8 graphs for a piece of code, and all modules are called by the same one."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return FunctionType(call.__code__.replace(), globals(), closure=call.__closure__)


def _kind(module: nn.Module | None, arguments: Any) -> tuple:
    shapes = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(arguments) if _is_tensor(leaf)]
    return (*shapes, torch.is_grad_enabled(), module is not None and module.training)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _backward_is_compiled_too() -> Any:
    """Else it is compiled when it runs for the first time, after the forward pass has changed statistics."""
    from torch._functorch import config

    if hasattr(config, "force_non_lazy_backward_lowering"):
        return config.patch(force_non_lazy_backward_lowering=True)
    return nullcontext()


def _reason(error: BaseException) -> str:
    """The first line of what the compiler or its backend says, without the words around it."""
    while isinstance(inner := getattr(error, "inner_exception", None), BaseException):
        error = inner
    return f"{type(error).__name__}: {first_line(error)}"
