"""How the networks of a run are compiled, by --compile and --graph, and what is said of it."""

import torch

from multicrop.config.machine import RunSettings
from multicrop.engine import compiled, graphs


def network_compiler(settings: RunSettings, device: torch.device, images: int) -> compiled.Compiler:
    """For networks that see so many images at a time on this rank. ValueError where they cannot be as is asked."""
    compiles = compiled.is_wanted(settings.compile_networks, device)
    choice = graphs.choose(settings.graph, compiles, device, images)
    return compiled.Compiler(compiles, graphs_of=graphs.Graphs() if choice.on else None)


def in_words(settings: RunSettings, device: torch.device, images: int) -> str:
    """ "compiled, as CUDA graphs, " or the like, with what leaves them out or why they are; "" where nothing is."""
    compiles = compiled.is_wanted(settings.compile_networks, device)
    choice = graphs.choose(settings.graph, compiles, device, images)
    return compiled.in_words(settings.compile_networks, device) + choice.words
