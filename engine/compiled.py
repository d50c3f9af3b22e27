"""torch.compile, and the plain arithmetic where the compiler fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any, Literal

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import graphs, ranks, watch
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
    buffers are as before when the call is made again. Where CUDA graphs are asked for, such a call tries them out
    first, and where that fails, they alone are left out.
    """

    def __init__(
        self, on: bool, what: str = "the networks", graphs_of: graphs.Graphs | None = None
    ) -> None:
        """what: it compiles, for the line that says that it does not. graphs_of: see `module`."""
        self.on, self.what, self.graphs = on, what, graphs_of

    def module(self, module: nn.Module, in_graphs: bool = False) -> None:
        """Compile what a call of a module does, in place.

        in_graphs: as CUDA graphs, if there are any: for what a step calls, with its backward pass before the next such
        call.
        """
        if self.on:
            call = module._call_impl  # as nn.Module.compile has it
            module._compiled_call_impl = self.function(call, module, in_graphs)

    def function(
        self, function: Callable, module: nn.Module | None = None, in_graphs: bool = False
    ) -> Callable:
        """The function, compiled. module: whose buffers it changes."""
        if not self.on:
            return function
        compiled, replaying = _compiled(function), None
        if in_graphs and module is not None and self.graphs:
            replaying = self.graphs.replaying(_compiled(function, graphs.OPTIONS), module)
        ways: dict[tuple, Callable] = {}  # by the kind of arguments: how it is called

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on or torch.compiler.is_compiling():  # as a part of a larger graph
                return function(*args, **kwargs)
            kind = _kind(module, (args, kwargs))
            way = ways.get(kind)
            if way is not None and (way is compiled or self.graphs):
                return way(*args, **kwargs)

            # The first of its kind, which compiles.
            before = _Before(module, args)
            if module is not None and replaying and self.graphs:
                try:
                    with _compiling():
                        graphs.try_out(replaying, module, args, kwargs, before.restore)
                except Exception as error:  # of the compiler or of CUDA
                    self.graphs = None  # for all of them
                    graphs.forget(_reason(error))
                    ranks.log(f"{self.what} run without CUDA graphs: {_reason(error)}")
                else:
                    ways[kind] = replaying
                    return replaying(*args, **kwargs)
            try:
                with _compiling():
                    result = compiled(*args, **kwargs)
            except Exception as error:  # of the compiler, in any of its parts
                reason = _reason(error)
                _check_no_rank_waits(module, self.what, reason)
            else:
                ways[kind] = compiled
                return result
            before.restore()
            self.on = False  # for the modules inside, too
            result = function(*args, **kwargs)  # raises what is not the compiler's fault
            ranks.log(f"{self.what} are not compiled, which is slower: {reason}")
            return result

        return call


def _compiled(function: Callable, options: dict[str, Any] | None = None) -> Callable:
    own = _with_code_of_its_own(function)
    return torch.compile(own, backend=BACKEND, dynamic=False, options=options)


@contextmanager
def _compiling() -> Iterator[None]:
    with watch.waiting("what it compiles first", False), _backward_is_compiled_too():
        yield


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
