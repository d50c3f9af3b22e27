"""What one process of a stage-one run holds in memory: copies of the networks, or shares of them (--shard).

    torchrun --nproc-per-node 2 -m benchmarks.memory_per_rank
    torchrun --nproc-per-node 2 -m benchmarks.memory_per_rank --shard true --checkpoint_activations true

Takes two optimizer steps on random images, and prints one JSON object, of the first process, in MB (10^6 bytes).
Counted are the tensors: weights of student and teacher, gradients, the optimizer's state, and the activations that wait
for the backward pass when the student's forward pass ends. What is put together for a moment (a block's weights) or
computed again (a block's activations) is in `peak_resident` alone, which the system says, libraries included. There set
MALLOC_MMAP_THRESHOLD_=65536, or glibc keeps a good part of what was let go of.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks._machine import machine, status
from multicrop import cli
from multicrop.commands._ssl_step import Rates, update
from multicrop.commands._student import TrainState, build
from multicrop.config.flags import from_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import ranks, sharding
from multicrop.ssl.crops import Crops

MB = 1e6


@dataclass(frozen=True)
class Recipe:
    """Count what a process of stage one holds."""

    arch: str = "timm:vit_base_patch16_224"
    """The backbone."""
    image_size: int = 224
    """Side of the global crops in pixels."""
    batch: int = 1
    """Images per process."""
    local_crops_number: int = 8
    """Local crops per image."""
    shard: bool = False
    """Shares in place of copies."""
    checkpoint_activations: bool = False
    """Compute the activations of blocks again."""
    out: str | None = None
    """Write the JSON object here too."""


def measure(r: Recipe) -> dict:
    device = ranks.start("cpu")
    names = ("arch", "image_size", "local_crops_number", "shard", "checkpoint_activations")
    sizes = {"out_dim": 65536, "head_hidden_dim": 2048}  # of DINO on ImageNet
    values = {name: getattr(r, name) for name in names} | sizes
    recipe = from_flags(Pretraining, {**values, "batch_size_per_gpu": r.batch})
    state = build(recipe, 3, device)
    side, count = r.image_size, r.local_crops_number
    crops = Crops(
        torch.randn(2, r.batch, 3, side, side),
        torch.randn(count, r.batch, 3, side // 2, side // 2),
    )
    schedule = {"teacher_temp": 0.04, "frozen": False}
    for step in range(2):
        update(state, [crops], Rates(1e-4, 0.04, 0.996), schedule, recipe, None, step)
    gradients = [p.grad for p in state.student.parameters() if p.grad is not None]
    moments = [each for values in state.optimizer.state.values() for each in values.values()]
    found = {
        "what": "memory of one process of stage one, MB",
        "settings": asdict(r),
        "processes": ranks.world_size(),
        "machine": machine(device),
        "weights": sum(p.numel() for p in state.student.parameters()),
        "student": size(state.student.parameters()),
        "teacher": size(state.teacher.parameters()),
        "gradients": size(gradients),
        "optimizer": size(moments),
    }
    state.optimizer.zero_grad()
    found["activations"] = activations(state, crops)
    found["peak_resident"] = round(status(os.getpid(), "VmHWM"))
    if r.out and ranks.rank() == 0:
        Path(r.out).write_text(json.dumps(found, indent=1) + "\n")
    ranks.stop()
    return found


def size(tensors: Iterable[Tensor]) -> float:
    """MB of the shares that are here."""
    with torch.no_grad():
        return round(sum(each.nbytes for each in sharding.local(tensors)) / MB)


def activations(state: TrainState, crops: Crops) -> float:
    """MB of what the student's forward pass keeps for the backward pass, each storage once, without weights."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        views = state.train_module(crops.globals, crops.locals)
    weights = {address(parameter) for parameter in state.student.parameters()}
    # Weights that were put together have let go of their storage
    total = sum(each.nbytes() for each in kept.values() if each.data_ptr() not in weights)
    assert views.outputs.grad_fn is not None
    return round(total / MB)


def address(parameter: nn.Parameter) -> int:
    (own,) = sharding.local([parameter.detach()])
    return own.untyped_storage().data_ptr()


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, measure, argv)


if __name__ == "__main__":
    main()
