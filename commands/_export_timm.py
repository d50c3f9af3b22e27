"""A network as timm's users load it: weights in safetensors, and config.json with its form, classes, mean and std."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch.nn as nn
from timm.models import save_for_hf
from torch import Tensor

from multicrop import timm_models
from multicrop.commands._export_network import Exported
from multicrop.commands._result_parts import say_replaced
from multicrop.engine.files import write_errors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OF_TIMM = "timm:"  # how --arch names a network that is one of timm's classes
OF_THESE_WEIGHTS = (
    "architecture", "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "num_classes", "label_names", "first_conv", "classifier",
)  # fmt: skip
"""What timm's description of a network keeps: the rest is about the weights that timm publishes under its name."""


def timm_network(exported: Exported) -> nn.Module:
    """timm's network with these weights. ValueError where it cannot hold them."""
    model: Any = timm_models.load(exported.path, exported.key)
    published = model.pretrained_cfg
    kept = {name: published[name] for name in OF_THESE_WEIGHTS if name in published}
    if not exported.classes:
        model.reset_classifier(0)
        kept["num_classes"] = 0
        kept.pop("label_names", None)
    model.pretrained_cfg = model.default_cfg = {**kept, "pool_size": None}
    model._model_args = made_of(
        model
    )  # newer releases of timm write these, whatever they are told beside
    return model.eval()


def made_of(model: Any) -> dict[str, Any]:
    """The keywords with which timm.create_model makes a network of this form again."""
    options = getattr(model, "create_options", None) or model._model_args
    left_out = ("checkpoint_key", "num_classes")
    return {
        name: value
        for name, value in options.items()
        if name not in left_out and not name.endswith("drop_rate") and name != "drop_path_rate"
    }


def write_folder(
    exported: Exported,
    model: nn.Module,
    folder: Path,
    texts: dict[str, str],
    check: Callable[[Callable[[Tensor], Tensor]], dict[str, float]],
) -> tuple[dict[str, float], int]:
    """model.safetensors, config.json, and texts by their files' names; what `check` finds of the network that timm
    reads again, and the bytes written. Files of these names are replaced once all are whole and checked."""
    config: dict[str, Any] = {"label_names": list(exported.classes)} if exported.classes else {}
    if exported.temperature:
        config["temperature"] = exported.temperature
    with _beside(folder) as whole:
        with write_errors(folder):
            save_for_hf(
                model,
                str(whole),
                model_config=config,
                model_args=made_of(model),
                safe_serialization=True,
            )
            for name, text in texts.items():
                (whole / name).write_text(text, encoding="utf-8")
            # safetensors writes for its owner alone
            (whole / WEIGHTS).chmod((whole / CONFIG).stat().st_mode)
        found = check(timm.create_model(f"local-dir:{whole}", pretrained=True).eval())
        size = sum(path.stat().st_size for path in whole.iterdir())
        with write_errors(folder):
            if (folder / CONFIG).exists():
                say_replaced(folder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in whole.iterdir():
                os.replace(path, folder / path.name)
    return found, size


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder on the same disk, gone afterwards."""
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.")
    with temporary as name:
        yield Path(name)


def load_lines(exported: Exported, where: str) -> list[str]:
    """Python that loads such a folder; where: local-dir:FOLDER or hf-hub:USER/NAME."""
    lines = ["import timm"]
    if not exported.arch.startswith(OF_TIMM):
        lines.append("import multicrop.timm_models  # makes our backbones timm's")
    return [*lines, f'model = timm.create_model("{where}", pretrained=True).eval()']
