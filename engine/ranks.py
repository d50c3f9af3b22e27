"""Processes: the only file that knows torch.distributed. Alone there is no group and each call is the identity."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def start(device: str = "auto") -> torch.device:
    """Join the process group that torchrun describes (NCCL on CUDA, else gloo), if any; this rank's device."""
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        backend, device_id = "gloo", None
        if chosen.type == "cuda":
            backend, device_id = "nccl", chosen
        dist.init_process_group(backend, timeout=timedelta(minutes=60), device_id=device_id)
    return chosen


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def log(message: str) -> None:
    """One line for people, on standard error, from rank 0, without breaking a progress bar."""
    if rank() == 0:
        tqdm.write(message, file=sys.stderr)


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the ranks."""
    if not dist.is_initialized():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def all_reduce_max(value: Tensor) -> Tensor:
    """The element-wise maximum over the ranks."""
    if not dist.is_initialized():
        return value
    top = value.clone()
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    return top


def gather(value: Tensor) -> Tensor:
    """Concatenate every rank's rows (their numbers may differ) on every rank, in rank order."""
    if not dist.is_initialized():
        return value
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, value.cpu())
    return torch.cat(parts).to(value.device)


def all_true(holds: bool) -> bool:
    """Whether something holds on every rank."""
    if not dist.is_initialized():
        return holds
    votes: list = [None] * world_size()
    dist.all_gather_object(votes, holds)
    return all(votes)


def broadcast_object(make: Callable[[], T]) -> T:
    """Rank 0 makes a value; every rank gets it. Nodes need not see the same disk."""
    if not dist.is_initialized():
        return make()
    box = [make() if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


@contextmanager
def first_on_node() -> Iterator[None]:
    """One process of each node runs the body before the others do: downloads and caches are made once."""
    leads = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if dist.is_initialized() and not leads:
        dist.barrier()
    yield
    if dist.is_initialized() and leads:
        dist.barrier()


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over the ranks; the module itself when alone."""
    if not dist.is_initialized():
        return module
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids)


def synchronise_norms(module: M, device: torch.device) -> M:
    """Batch norms that see the batch of all ranks; torch has them for CUDA only, elsewhere each rank keeps its own."""
    if dist.is_initialized() and device.type == "cuda":
        # torch's own would drop the activation of timm's batch norms
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    return module


@contextmanager
def reduce_gradients(module: nn.Module, last: bool) -> Iterator[None]:
    """Leave gradients unreduced on all but the last of several backward passes."""
    if last or not isinstance(module, nn.parallel.DistributedDataParallel):
        yield
    else:
        with module.no_sync():
            yield


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device(name: str) -> torch.device:
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not a device; try auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {name}: this torch sees no CUDA device; use --device cpu or auto"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device
