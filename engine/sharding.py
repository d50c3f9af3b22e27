"""Networks too large for one GPU: each rank holds a share of their weights, gradients and optimizer state.

By torch's fully_shard (FSDP2, Zhao et al. 2023, arXiv 2304.11277): a part's weights are put together before it is used,
and let go of afterwards. Files hold whole tensors, so that they are the same with and without it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from . import ranks, watch
from .blocks import blocks

DEVICES = ("cuda", "cpu")


def shard(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Share the parameters of networks out over the ranks, in place, and move them to the device.

    What is called by itself are the parts of a network, not the network: each of them is shared out by its blocks.
    From then on load_state_dict takes whole tensors and keeps this rank's share. ValueError where that cannot be.
    """
    if device.type not in DEVICES:
        raise ValueError(f"--shard works on {' and '.join(DEVICES)}, not on {device.type}")
    for network in networks:
        _check_parameters(network)
    mesh = init_device_mesh(device.type, (ranks.world_size(),))
    for network in networks:
        for part in network.children():
            for unit in (*blocks(part), part):
                unit.register_forward_hook(_own_output)
                # Else the part itself would stay whole after a forward pass
                fully_shard(unit, mesh=mesh, reshard_after_forward=True)
            part.register_load_state_dict_pre_hook(_share_of_network)


def _check_parameters(network: nn.Module) -> None:
    """ValueError where a parameter is a single number, or has two names: torch's fully_shard takes neither."""
    names: dict[nn.Parameter, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        reason = ""
        if parameter.ndim == 0:
            reason = f"{name} is a single number"
        elif parameter in names:
            reason = f"{names[parameter]} and {name} are one"
        if reason:
            raise ValueError(f"--shard cannot share out all parameters, {reason}: leave it out")
        names[parameter] = name


def _own_output(unit: nn.Module, inputs: Any, output: Any) -> Any:
    """A copy of an output that is a view: in-place arithmetic on it would lose the hook that puts the weights together
    again in the backward pass."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def is_sharded(network: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in network.modules())


# Tensors


def is_share(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shares, without gradients; tensors that are not shared out as they are."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, put together by all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a whole tensor where `like` is shared out."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    mesh, (placement,) = like.device_mesh, like.placements
    assert isinstance(placement, Shard)
    parts, rank = tensor.chunk(mesh.size(), placement.dim), mesh.get_local_rank()
    own = parts[rank] if rank < len(parts) else tensor.narrow(placement.dim, 0, 0)
    return DTensor.from_local(
        own.to(like.device, copy=True),
        mesh,
        like.placements,
        run_check=False,
        shape=tensor.shape,
        stride=like.stride(),
    )


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each whole tensor, (n,)."""
    own = torch.stack(torch._foreach_norm(local(tensors)))
    if any(isinstance(tensor, DTensor) for tensor in tensors):
        squares = own.square()
        dist.all_reduce(squares)
        own = squares.sqrt()
    return own


# States


def whole_state(state: Any) -> Any:
    """A state of tensors in dictionaries and lists, put together by all ranks: on the CPU of the first, {} on others.

    The same object where nothing in it is shared out.
    """
    if not any(isinstance(tensor, DTensor) for tensor in _tensors(state)):
        return state
    # As long as it takes: a rank that was asked to stop saves this
    with watch.waiting("the weights of all ranks", limited=False):
        gathered = _gathered(state)
    return gathered if ranks.rank() == 0 else {}


def _gathered(state: Any) -> Any:
    """One tensor after the other, so that only the first rank ever holds more than one."""
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if ranks.rank() == 0 else None
    if isinstance(state, dict):
        gathered: Any = type(state)((name, _gathered(value)) for name, value in state.items())
        if hasattr(state, "_metadata"):  # the versions of a network's modules
            gathered._metadata = state._metadata
        return gathered
    if isinstance(state, list | tuple):
        return type(state)(_gathered(value) for value in state)
    return state


def _tensors(state: Any) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)


def take_whole_states(optimizer: torch.optim.Optimizer) -> None:
    """From now on its load_state_dict keeps this rank's share of whole tensors, as that of sharded networks does."""
    optimizer.register_load_state_dict_pre_hook(_share_of_optimizer)


def _share_of_network(part: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, own in part.named_parameters():
        value = state.get(prefix + name)
        if value is not None and value.shape == own.shape:  # torch says what differs
            state[prefix + name] = share(value, own)


def _share_of_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    shares: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        own = parameters[index]
        shares[index] = {
            name: share(value, own)
            if isinstance(value, Tensor) and value.shape == own.shape
            else value
            for name, value in values.items()
        }
    return {**state, "state": shares}
