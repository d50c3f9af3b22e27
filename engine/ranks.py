"""Processes: with sharding.py what knows torch.distributed. Alone there is no group, each call is the identity."""

import inspect
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from . import waits, watch
from .heartbeat import Heartbeat
from .interrupt import Stopped

T = TypeVar("T")
STEP_MINUTES = "MULTICROP_STEP_MINUTES"
# Longer than any work that one does for all: heartbeats say whether it still lives
WORK = timedelta(days=365)
SILENT = timedelta(days=7)  # the heartbeats' own limit is for a store that does not answer
REDUCED = "what they add up"  # beside steps: accuracies, numbers of a row
BUCKET = 25  # MB of gradients that GPUs exchange at once; our networks have 1 to 100
LOST = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "process exited")
_host: dist.ProcessGroup | None = (
    None  # the ranks once more, for what is not on a GPU and for waiting
)
_heartbeat: Heartbeat | None = None
_node: tuple[int, dist.ProcessGroup] | None = (
    None  # the rank that leads this node, and the node's ranks
)


def start(device: str = "auto", group_of_one: bool = False) -> torch.device:
    """Join the process group that torchrun describes (NCCL on CUDA, else gloo), if any; this rank's device.

    group_of_one: also where torchrun has started one process alone, which needs no group.
    """
    global _host, _heartbeat
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    wants_group = group_of_one and "WORLD_SIZE" in os.environ
    if (not alone or wants_group) and not dist.is_initialized():
        backend, device_id = "gloo", None
        if chosen.type == "cuda":
            backend, device_id = "nccl", chosen
        limit = timedelta(minutes=step_minutes())
        dist.init_process_group(backend, timeout=limit, device_id=device_id)
        _heartbeat = _start_heartbeat()
        _host = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=WORK))
    return chosen


def _start_heartbeat() -> Heartbeat | None:
    """By a connection of its own to the store in which the ranks have met: another's may be inside a long call."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if host is None or port is None:
        return None
    try:
        store = dist.TCPStore(
            host,
            int(port),
            is_master=False,
            timeout=SILENT,
            wait_for_workers=False,
            use_libuv=False,
        )
    except RuntimeError as error:  # not worth a run that could begin without
        log(f"process {dist.get_rank()} has no heartbeats, so a lost process is not named: {error}")
        return None
    # torchrun may keep one store over all restarts
    started = os.environ.get("TORCHELASTIC_RUN_ID"), os.environ.get("TORCHELASTIC_RESTART_COUNT")
    own = dist.PrefixStore(f"heartbeat {started}", store)
    return Heartbeat(own, dist.get_rank(), dist.get_world_size(), host)


def lost_peers() -> str:
    """Which ranks are lost, where a collective has failed; empty where nobody can say."""
    return _heartbeat.lost() if _heartbeat is not None else ""


def step_minutes() -> float:
    """$MULTICROP_STEP_MINUTES, how long ranks wait for each other within a step; 60 where it is not set."""
    most = WORK.total_seconds() / 60
    return waits.stated(STEP_MINUTES, "60", most, "minutes that ranks can wait")


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, or has not answered in time."""
    said = str(error).lower()
    return any(words in said for words in LOST)


def stop(failed: bool = False) -> None:
    """Leave the process group. failed: this rank ends on its own, at any point of what the ranks do together."""
    global _host, _node, _heartbeat
    if _heartbeat is not None:
        _heartbeat.end(failed)
        _heartbeat = None
    if not dist.is_initialized():
        return
    if failed and dist.get_backend() == "nccl":
        return  # it would wait for what the others have not begun; they hear of the end of the process
    dist.destroy_process_group()
    _host = _node = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def has_group() -> bool:
    """Whether this process is one of several, or of a group of one."""
    return dist.is_initialized()


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
    with watch.waiting(REDUCED, limited=True):
        dist.all_reduce(total)
    return total / world_size()


def all_reduce_max(value: Tensor) -> Tensor:
    """The element-wise maximum over the ranks."""
    if not dist.is_initialized():
        return value
    top = value.clone()
    with watch.waiting(REDUCED, limited=True):
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
    return top


def gather(value: Tensor, to: int | None = None) -> Tensor:
    """Concatenate every rank's rows (their numbers may differ) in rank order, on every rank.

    to: on this rank alone; on the others there are no rows then.
    """
    if not dist.is_initialized():
        return value
    parts = gather_objects(value.cpu(), to)
    return torch.cat(parts).to(value.device) if parts else value[:0]


def gather_equal(value: Tensor) -> Tensor:
    """Every rank's numbers (n,), as many on each, in rank order: (ranks, n). On the device, without waiting for it."""
    every = value.new_empty(world_size(), value.numel())
    # Until torch 2.14 the name was the longer one
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(every.view(-1), value)
    return every


def everyone() -> dist.ProcessGroup | None:
    """The group of all ranks, for what of torch asks for one."""
    return dist.group.WORLD


def gather_objects(value: T, to: int | None = None) -> list[T]:
    """Every rank's value, in rank order. to: on this rank alone; on the others the list is empty then."""
    if not dist.is_initialized():
        return [value]
    parts: list = [None] * world_size()
    _meet()
    if to is None:
        dist.all_gather_object(parts, value, group=_host)
    else:
        receives = rank() == to
        dist.gather_object(value, parts if receives else None, dst=to, group=_host)
        parts = parts if receives else []
    return parts


def all_true(holds: bool) -> bool:
    """Whether something holds on every rank."""
    return all(gather_objects(holds))


def broadcast_object(make: Callable[[], T], source: int = 0) -> T:
    """One rank makes a value; every rank gets it. Nodes need not see the same disk."""
    if not dist.is_initialized():
        return make()
    box = [make() if rank() == source else None]
    _meet()
    dist.broadcast_object_list(box, src=source, group=_host)
    return cast(T, box[0])


@contextmanager
def first_on_node() -> Iterator[None]:
    """One process of each node runs the body before the others do: downloads and caches are made once.

    Stopped on every rank where a signal has ended the body of one of those.
    """
    leads = _leads_node()
    if not leads and not all_true(True):
        raise Stopped
    try:
        yield
    except KeyboardInterrupt:
        if leads:
            all_true(False)
        raise
    if leads and not all_true(True):
        raise Stopped


def make_on_node(make: Callable[[], T], is_light: Callable[[T], bool]) -> T:
    """One process of each node makes a value, and the others get a copy, if it is light to send.

    If not they make it themselves, after the first: from what that has downloaded and cached.
    """
    if not dist.is_initialized():
        return make()
    made: list[T] = []
    with first_on_node():
        if _leads_node():
            made = [make()]
    leader, group = _node_group()
    if leader is not None:
        box = [made if made and is_light(made[0]) else []]
        _meet(group)
        dist.broadcast_object_list(box, src=leader, group=group)
        made = made or box[0]
    return made[0] if made else make()


def _leads_node() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def _node_group() -> tuple[int | None, dist.ProcessGroup | None]:
    """The first rank of this node and the group of the node's ranks; None where this process is alone there."""
    global _node
    if _node is None:
        nodes = gather_objects((_node_name(), _leads_node()))
        leaders: dict[tuple, int] = {}
        for each, (node, leads) in enumerate(nodes):
            if leads:
                leaders.setdefault(node, each)
        # Every rank makes each group, as torch wants it; what leads itself is in none
        for node, leader in leaders.items():
            members = [each for each, (own, leads) in enumerate(nodes) if own == node and not leads]
            if not members:
                continue
            group = dist.new_group([leader, *members], timeout=WORK, backend="gloo")
            if rank() in (leader, *members):
                _node = leader, cast(dist.ProcessGroup, group)
    return _node or (None, None)


def _node_name() -> tuple:
    """What tells this node from others: torchrun's or Slurm's number of it, too, since containers may share a name."""
    return socket.gethostname(), *map(os.environ.get, ("GROUP_RANK", "SLURM_NODEID"))


def _meet(group: dist.ProcessGroup | None = None) -> None:
    """Wait until every rank is here. Signals are heard meanwhile, as they are not inside a collective.

    group: only those of it.
    """
    work = dist.barrier(group=group or _host, async_op=True)
    pause = 1e-4
    with watch.waiting("what one of them does for all", limited=False):
        while work is not None and not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    if work is not None:
        work.wait()  # raises where a rank has failed


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over the ranks; the module itself when alone."""
    if not dist.is_initialized():
        return module
    ids = [device.index] if device.type == "cuda" else None
    parallel = nn.parallel.DistributedDataParallel
    # Gradients are parts of what is sent, not copied there
    options: dict[str, Any] = {"gradient_as_bucket_view": True}
    if device.type == "cuda":
        # Stated, it is the first one's size too, 1 MB otherwise: most of our networks are sent at once
        options["bucket_cap_mb"] = BUCKET
    if not _ranks_drift(module):
        named = inspect.signature(parallel).parameters  # torch 2.14 has given it another name
        sends = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
        options[sends] = False
    with watch.waiting("the comparison of their networks", limited=True):
        return parallel(module, device_ids=ids, **options)


def _ranks_drift(module: nn.Module) -> bool:
    """Whether it has batch norms whose statistics differ between ranks, so that each step sends the first rank's."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    return any(not isinstance(norm, nn.SyncBatchNorm) for norm in norms)


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
        # Where each task sees its own GPU alone, all of them are number 0
        device = torch.device(
            "cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        )
    return device
