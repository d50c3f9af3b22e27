"""The blocks of a network: what a deep network repeats, found without knowing the network.

By blocks activations are recomputed (engine/recomputation.py) and weights are shared out (engine/sharding.py).
"""

from collections import Counter
from collections.abc import Callable, Iterator

import torch.nn as nn


def blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network in the order of its modules, none inside another; [] where nothing repeats.

    A block is a member of a list (ModuleList or Sequential), of a class of which such lists have several members. A
    stage, which itself lists several members of one class, is no block: its members are. Where there are no such lists,
    blocks are the outermost neighbours of one class.
    """
    return _repeated(network, _listed) or _repeated(network, _neighbours, stages=False)


Members = Callable[[nn.Module], Iterator[nn.Module]]


def _repeated(network: nn.Module, members_of: Members, stages: bool = True) -> list[nn.Module]:
    """stages: whether what has several members of one class itself is passed over."""
    members = dict.fromkeys(members_of(network))
    counts = Counter(type(member) for member in members)
    passed: set[type] = set()
    if stages:
        passed = {type(member) for member in members if _has_several(member, members_of)}
    outermost: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for member in members:  # outer ones come before what is in them
        if member not in inside and counts[type(member)] > 1 and type(member) not in passed:
            outermost.append(member)
            inside.update(member.modules())
    return outermost


def _has_several(member: nn.Module, members_of: Members) -> bool:
    counts = Counter(type(inner) for inner in dict.fromkeys(members_of(member)))
    return max(counts.values(), default=0) > 1


def _listed(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            yield from filter(_is_composed, module.children())


def _neighbours(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        children = list(filter(_is_composed, module.children()))
        counts = Counter(map(type, children))
        yield from (child for child in children if counts[type(child)] > 1)


def _is_composed(module: nn.Module) -> bool:
    """Whether it has a class of its own, modules inside and parameters: no layer of torch.nn, no list."""
    own = not type(module).__module__.startswith("torch.nn.")
    return own and any(True for _ in module.children()) and any(True for _ in module.parameters())
