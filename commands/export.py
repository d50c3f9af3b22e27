"""Write a trained network as other programs read it, and check what was written: ONNX, torch.export, timm, the Hub.

    multicrop export runs/ft --to onnx --input uint8      # runs/ft/model.onnx, from pixels to logits
    multicrop export runs/ft --to hf --license cc-by-4.0  # runs/ft/hf, a folder that can be pushed

Checkpoint -> network -> graph or timm's network -> file -> its numbers against the network's. Flags: config/export.py.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from multicrop.commands import _export_onnx
from multicrop.commands._export_card import model_card
from multicrop.commands._export_check import batches, differences
from multicrop.commands._export_graph import Graph, dynamic_axes, input_shape, trace
from multicrop.commands._export_network import Exported, load
from multicrop.commands._export_out import DESCRIPTION, check_out
from multicrop.commands._export_timm import load_lines, timm_network, write_folder
from multicrop.commands._result_parts import say_replaced
from multicrop.config.export import Recipe
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write

NAMES = {"onnx": "model.onnx", "torch": "model.pt2", "timm": "timm", "hf": "hf"}
CARD = "README.md"


def run(recipe: Recipe) -> dict[str, Any]:
    if recipe.to == "onnx":
        _export_onnx.check_installed()
    exported = load(recipe.model, recipe.checkpoint_key, recipe.graph.returns, recipe.calibrated)
    graph = Graph(exported, recipe.graph)
    path = Path(recipe.output or exported.path.parent / NAMES[recipe.to]).expanduser()
    check_out(path, recipe.to)
    inputs = batches(exported, graph, recipe.check)

    def check(written: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return differences(written, graph, inputs)

    write = write_graph if recipe.to in ("onnx", "torch") else write_weights
    written = write(recipe, exported, graph, path, check)
    found = written["max_difference"]
    shown = ", ".join(f"{value:.1g} on {kind} images" for kind, value in found.items())
    ranks.log(f"{path}: {exported.arch} -> {exported.returns}; largest difference {shown}")
    return {
        "status": "finished",
        "checkpoint": str(exported.path),
        "to": recipe.to,
        "output": str(path),
        "returns": exported.returns,
        "temperature": exported.temperature,
        "classes": len(exported.classes),
        **written,
    }


Check = Callable[[Callable[[Tensor], Tensor]], dict[str, float]]


def write_graph(
    recipe: Recipe, exported: Exported, graph: Graph, path: Path, check: Check
) -> dict[str, Any]:
    """A file of one graph: it is run as it will be, and takes its name once the numbers agree."""
    description = describe(exported, graph)
    program = trace(graph, exported)
    if recipe.to == "onnx":
        axes = dynamic_axes(exported, recipe.graph)
        metadata = {key: json.dumps(value) for key, value in description.items()}
        content = _export_onnx.to_onnx(program, axes, exported.returns, metadata)
        found = check(_export_onnx.runner(content))
    else:
        content = program_bytes(program, description)
        found = check(torch.export.load(io.BytesIO(content)).module())
    path.parent.mkdir(parents=True, exist_ok=True)
    say_replaced(path)
    with atomic_write(path) as file:
        file.write(content)
    return {"input": description["input"], "bytes": len(content), "max_difference": found}


def describe(exported: Exported, graph: Graph) -> dict[str, Any]:
    """What a file of a graph says about itself, beside the graph."""
    settings = graph.settings
    return {
        "arch": exported.arch,
        "input": {
            "name": _export_onnx.INPUT,
            "type": "float32" if settings.input == "float" else "uint8",
            "shape": input_shape(exported, settings),
            "layout": settings.layout,
        },
        "returns": exported.returns,
        "temperature": exported.temperature,
        "classes": exported.classes,
        "image_size": exported.size,
        "mean": exported.transform.mean,
        "std": exported.transform.std,
        "crop_pct": exported.transform.crop_pct,
        "fit": exported.transform.fit,
    }


def program_bytes(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(description)})
    return buffer.getvalue()


def write_weights(
    recipe: Recipe, exported: Exported, graph: Graph, path: Path, check: Check
) -> dict[str, Any]:
    """A folder of timm's, with --to hf also the model card."""
    texts = {}
    if recipe.to == "hf":
        texts[CARD] = model_card(exported, recipe.card.name, recipe.card.license)
    model = timm_network(exported)
    found, size = write_folder(exported, model, path, texts, check)
    load = load_lines(exported, f"local-dir:{path}")
    return {"load": load, "bytes": size, "max_difference": found}
