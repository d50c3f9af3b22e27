"""The networks of stage one: student and teacher, the objective, and all that a step changes."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn

from multicrop import registry
from multicrop.commands._compiler import network_compiler
from multicrop.config.pretrain import COMPARING, Recipe
from multicrop.config.sizes import half
from multicrop.engine import norms, optim, ranks, seeds, sharding
from multicrop.engine.parameter_groups import parameter_groups
from multicrop.engine.recomputation import recompute_blocks
from multicrop.ssl.encoder import Encoder, check_sizes
from multicrop.ssl.objectives._base import BaseObjective
from multicrop.ssl.teacher import teacher_of


@dataclass
class TrainState:
    """All of stage one that a step changes and a checkpoint holds."""

    student: Encoder
    teacher: Encoder
    # The student as the loop calls it: compiled, gradients averaged over the ranks
    train_module: nn.Module
    objective: BaseObjective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    PARTS: ClassVar = ("student", "teacher", "objective", "optimizer", "scaler")

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device

    def state(self) -> dict[str, Any]:
        """Of sharded networks the first rank has all, put together by all ranks, and the others have {}."""
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return sharding.whole_state(state)

    def load_state(self, state: dict[str, Any]) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])


def check_backbone(recipe: Recipe, channels: int) -> nn.Module:
    """The backbone, tried on crops of both sizes. ValueError where it cannot take them."""
    backbone = registry.backbone(**recipe.backbone.options(), in_channels=channels)
    size = recipe.backbone.image_size
    sizes = (size, half(size)) if recipe.crops.local_crops_number else (size,)
    check_sizes(backbone, channels, *sizes)
    return backbone


def build(recipe: Recipe, channels: int, device: torch.device, classes: int = 0) -> TrainState:
    """classes: that a classifier learns beside the objective; 0: none does."""
    seeds.reseed(recipe.optimisation.seed, "weights")
    backbone = check_backbone(recipe, channels)
    stated_width = recipe.method.mlp_head_in
    if stated_width not in (None, backbone.dim):
        width = f"{recipe.backbone.arch} gives {backbone.dim} features"
        raise ValueError(f"--mlp_head_in {stated_width}, but {width}: leave the flag out")
    for name in COMPARING:
        weight = getattr(recipe.method, name)
        if weight and recipe.optimisation.batch_size_per_gpu < 2:
            raise ValueError(
                f"--{name} {weight} needs other images in the batch: --batch_size_per_gpu 2 or more"
            )
    objective_type = registry.find("ssl.objectives", recipe.method.objective).Objective
    objective = objective_type.from_recipe(recipe, backbone.dim)
    head = objective.build_head()
    classifier = nn.Linear(cast(int, backbone.dim), classes) if classes else None
    sharded = recipe.run.shard and ranks.world_size() > 1
    encoder = Encoder(backbone, head, classifier).to("cpu" if sharded else device)
    student = norms.synchronise(encoder, device)
    teacher = teacher_of(student, recipe.method.teacher_drop_path)
    if recipe.run.checkpoint_activations:
        recompute_blocks(student.backbone)
    if sharded:
        sharding.shard((student, teacher), device)
    compiler = network_compiler(recipe.run, device, recipe.optimisation.batch_size_per_gpu)
    compiler.module(student, in_graphs=True)
    compiler.module(teacher, in_graphs=True)
    groups = parameter_groups(student)
    optimizer = optim.build_optimizer(recipe.optimisation.optimizer, groups)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "fp16")
    if sharded:
        sharding.take_whole_states(optimizer)
    train_module = student if sharded else ranks.wrap(student, device)
    return TrainState(student, teacher, train_module, objective.to(device), optimizer, scaler)
