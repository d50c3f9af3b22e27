"""Parameter groups: which parameters decay, and learning rates that shrink towards the input.

Layer-wise decay of the learning rate as in Clark et al. 2020, arXiv 2003.10555, and BEiT (Bao et al. 2022,
arXiv 2106.08254).
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn as nn
from timm.models import group_parameters
from torch import Tensor

Group = dict[str, Any]  # of an optimizer: its params, and what is said of them


def parameter_groups(
    model: nn.Module,
    *,
    exempt: Sequence[str] = (),
    layer_decay: float = 1.0,
    backbone: nn.Module | None = None,
    example: Tensor | None = None,
) -> list[Group]:
    """Groups for engine/optim.py: `decays` says whether a group's weights decay, `lr_scale` multiplies its rate.

    Vectors and biases never decay, nor do parameters whose name matches a pattern of `exempt`: "cls_token" is that name
    alone, "*pos_embed*" all that contain it. Inside the backbone names are those of the bare backbone.
    Of the L layers of `backbone` (model.backbone unless given), layer l learns at layer_decay^(L + 1 - l) times the
    rate, its stem as l = 0; all else at the whole rate. `example` is a small batch of images (B, C, h, w) to find the
    layers with, needed where layer_decay is not 1. ValueError where the layers cannot be found.
    """
    if backbone is None:
        backbone = getattr(model, "backbone", None)
    backbone_names: dict[nn.Parameter, str] = {}
    if backbone is not None:
        backbone_names = _names_of_parameters(backbone)
    lr_scales: dict[str, float] = {}
    if layer_decay != 1:
        if backbone is None:
            raise ValueError(
                f"{type(model).__name__} has no backbone whose layers could learn at different rates"
            )
        lr_scales = _lr_scales(backbone, layer_decay, example)

    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr_scale = 1.0
        if parameter in backbone_names:
            name = backbone_names[parameter]
            lr_scale = lr_scales.get(name, 1.0)
        decays = is_matrix(name, parameter) and not _matches(name, exempt)
        members.setdefault((lr_scale, decays), []).append(parameter)

    groups = []
    for lr_scale, decays in sorted(members, reverse=True):
        group: Group = {"params": members[lr_scale, decays], "decays": decays, "lr_scale": lr_scale}
        if not decays:
            group["weight_decay"] = 0.0
        groups.append(group)
    return groups


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay may concern a parameter: matrices and tables, but no biases, norms and other vectors."""
    return parameter.ndim > 1 and not name.endswith(".bias")


def select_groups(
    module: nn.Module,
    backbone: nn.Module,
    decay: str,
    no_decay: Sequence[str],
    layer_decay: float,
    example: Tensor,
) -> list[Group]:
    """The groups that the flags ask for: with decay "all" every parameter decays, as published for two stages."""
    if decay == "all" and layer_decay == 1:
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return [{"params": learning, "decays": True}]
    groups = parameter_groups(
        module, backbone=backbone, exempt=no_decay, layer_decay=layer_decay, example=example
    )
    if decay == "all":
        for group in groups:
            group["decays"] = True
    return groups


def parameter_layers(backbone: nn.Module, example: Tensor | None = None) -> dict[str, int]:
    """Each trainable parameter's layer: 0 the stem, then the blocks 1 .. L, whatever follows the last one in it too.

    timm's networks say it themselves; others through their feature maps, which need an `example` batch of images.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        return group_parameters(backbone, matcher(coarse=False), reverse=True)
    if not getattr(backbone, "maps", None) or example is None:
        raise ValueError(
            f"the layers of {type(backbone).__name__} are found by its feature maps on example images"
        )
    names = _names_of_parameters(backbone)
    layers = {}
    for layer, parameters in enumerate(_parameters_by_map(backbone, example), start=1):
        for parameter in parameters:
            layers[names[parameter]] = layer
    first = [name for name, layer in layers.items() if layer == 1]
    for name in _stem(first, list(names.values())):
        layers[name] = 0
    return layers


def _names_of_parameters(module: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _lr_scales(backbone: nn.Module, layer_decay: float, example: Tensor | None) -> dict[str, float]:
    """What each parameter's learning rate is multiplied by, by name."""
    if not 0 < layer_decay <= 1:
        raise ValueError(
            f"the layers' decay of the learning rate is {layer_decay}; it must be above 0 and at most 1"
        )
    layers = parameter_layers(backbone, example)
    top = max(layers.values()) + 1
    return {name: layer_decay ** (top - layer) for name, layer in layers.items()}


def _parameters_by_map(backbone: nn.Module, example: Tensor) -> list[list[nn.Parameter]]:
    """For each feature map the parameters that it depends on and no earlier one does, by the graph of the gradients.

    The last map's also hold those that only the features depend on.
    """
    training = backbone.training
    network: Any = backbone.eval()  # forward_maps is part of the contract of models/
    with torch.enable_grad():
        features, maps = network.forward_maps(example)
    backbone.train(training)
    visited: set[Any] = set()
    parameters = [_new_leaves(output, visited) for output in maps.values()]
    parameters[-1] += _new_leaves(features, visited)
    return parameters


def _new_leaves(output: Tensor, visited: set[Any]) -> list[nn.Parameter]:
    """The leaves of the graph below an output, without the nodes in `visited`, to which it adds."""
    nodes: list[Any] = [output.grad_fn]
    leaves = []
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return leaves


def _stem(first: list[str], names: Sequence[str]) -> list[str]:
    """Of the names below the first map those outside its block, which is where the last-defined one is: "blocks."."""
    last = max(first, key=names.index)
    block = re.match(r"(.*blocks\.|.*?\.)?\d+\.", last)
    if block is None:
        return []
    prefix = block[1] or block[0]
    return [name for name in first if not name.startswith(prefix)]
