"""Parameter groups: which parameters decay, and learning rates that shrink towards the input.

Layer-wise decay of the learning rate as in Clark et al. 2020, arXiv 2003.10555, and BEiT (Bao et al. 2022,
arXiv 2106.08254).
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn as nn
from timm.models import group_parameters
from torch import Tensor


def groups(
    model: nn.Module,
    *,
    exempt: Sequence[str] = (),
    layer_decay: float = 1.0,
    backbone: nn.Module | None = None,
    example: Tensor | None = None,
) -> list[dict]:
    """Groups for engine/optim.py: `decays` says whether a group's weights decay, `lr_scale` multiplies its rate.

    Vectors and biases never decay, nor do parameters whose name matches a pattern of `exempt`: "cls_token" is that name
    alone, "*pos_embed*" all that contain it. Inside the backbone names are those of the bare backbone.
    Of the L layers of `backbone` (model.backbone unless given), layer l learns at layer_decay^(L + 1 - l) times the
    rate, its stem as l = 0; all else at the whole rate. `example` is a small batch of images (B, C, h, w) to find the
    layers with, needed where layer_decay is not 1. ValueError where the layers cannot be found.
    """
    backbone = getattr(model, "backbone", None) if backbone is None else backbone
    if backbone is None and layer_decay != 1:
        raise ValueError(
            f"{type(model).__name__} has no backbone whose layers could learn at different rates"
        )
    inside = (
        {}
        if backbone is None
        else {parameter: name for name, parameter in backbone.named_parameters()}
    )
    scales = {} if layer_decay == 1 else _scales(backbone, layer_decay, example)
    found: dict[tuple[float, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = inside.get(parameter, name)
            decays = (
                parameter.ndim > 1 and not name.endswith(".bias") and not _matches(name, exempt)
            )
            scale = scales.get(name, 1.0) if parameter in inside else 1.0
            found.setdefault((scale, decays), []).append(parameter)
    ordered = sorted(found.items(), key=lambda item: item[0], reverse=True)
    return [_group(parameters, *kind) for kind, parameters in ordered]


def chosen(
    learner: nn.Module,
    backbone: nn.Module,
    decay: str,
    no_decay: Sequence[str],
    layer_decay: float,
    example: Tensor,
) -> list[dict]:
    """The groups that the flags ask for: with decay "all" every parameter decays, as published for two stages."""
    if decay == "all" and layer_decay == 1:
        return [{"params": [p for p in learner.parameters() if p.requires_grad], "decays": True}]
    found = groups(
        learner, backbone=backbone, exempt=no_decay, layer_decay=layer_decay, example=example
    )
    return [group | {"decays": group["decays"] or decay == "all"} for group in found]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _group(parameters: list[nn.Parameter], scale: float, decays: bool) -> dict:
    group = {"params": parameters, "decays": decays, "lr_scale": scale}
    return group if decays else group | {"weight_decay": 0.0}


def _scales(backbone: nn.Module, layer_decay: float, example: Tensor | None) -> dict[str, float]:
    if not 0 < layer_decay <= 1:
        raise ValueError(
            f"the layers' decay of the learning rate is {layer_decay}; it must be above 0 and at most 1"
        )
    found = layers(backbone, example)
    last = max(found.values())
    return {name: layer_decay ** (last + 1 - layer) for name, layer in found.items()}


def layers(backbone: nn.Module, example: Tensor | None = None) -> dict[str, int]:
    """Each trainable parameter's layer: 0 the stem, then the blocks 1 .. L, whatever follows the last one in it too.

    timm's networks say it themselves; others through their feature maps, which need an `example` batch of images.
    """
    if hasattr(backbone, "group_matcher"):
        return group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    if not getattr(backbone, "maps", None) or example is None:
        raise ValueError(
            f"the layers of {type(backbone).__name__} are found by its feature maps on example images"
        )
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    found = {
        names[parameter]: layer
        for layer, parameters in enumerate(_by_map(backbone, example), start=1)
        for parameter in parameters
    }
    return found | dict.fromkeys(
        _stem([name for name, layer in found.items() if layer == 1], names.values()), 0
    )


def _by_map(backbone: nn.Module, example: Tensor) -> Iterator[list[nn.Parameter]]:
    """For each feature map the parameters that it depends on and no earlier one does, by the graph of the gradients.

    The last map's also hold those that only the features depend on.
    """
    training = backbone.training
    with torch.enable_grad():
        features, maps = backbone.eval().forward_maps(example)
    backbone.train(training)
    seen: set = set()
    *early, last = maps.values()
    yield from (_leaves([found], seen) for found in early)
    yield _leaves([last, features], seen)


def _leaves(outputs: list[Tensor], seen: set) -> list[nn.Parameter]:
    """The leaves of the graph below `outputs`, without the nodes in `seen`, to which it adds."""
    nodes, leaves = [output.grad_fn for output in outputs], []
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                leaves.append(node.variable)
            nodes += [following for following, _ in node.next_functions]
    return leaves


def _stem(first: list[str], order: Sequence[str]) -> list[str]:
    """Of the names below the first map those outside its block, which is where the last-defined one is: "blocks."."""
    last = [name for name in order if name in set(first)][-1]
    block = re.match(r"(.*blocks\.|.*?\.)?\d+\.", last)
    return [name for name in first if block and not name.startswith(block[1] or block[0])]
