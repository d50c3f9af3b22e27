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

from multicrop import registry
from multicrop.commands._export_network import Exported
from multicrop.engine.files import write_errors
from multicrop.timm_models import PREFIX

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OF_TIMM = "timm:"  # how --arch names a network that is one of timm's classes
TIMM_WORDS = {"image_size": "img_size", "in_channels": "in_chans", "drop_rate": "proj_drop_rate"}


def timm_form(exported: Exported) -> tuple[str, dict[str, Any]]:
    """The name and the keywords that timm.create_model makes this network of, its number of classes among them."""
    options = dict(exported.metadata.backbone)
    arch = options.pop("arch")
    classes = {"num_classes": len(exported.classes)}
    if arch.startswith(OF_TIMM):
        if options.get("standardise"):
            raise ValueError(
                f"--to timm: --standardise is inside {exported.path}, and no class of timm has it: take --to onnx or torch"
            )
        made_of: dict[str, Any] = exported.backbone.create_options  # type: ignore[assignment]
        return arch.removeprefix(OF_TIMM), classes | made_of
    name, own = _registered(arch)
    keywords = {TIMM_WORDS.get(option, option): value for option, value in options.items()}
    return name, classes | own | keywords


def _registered(arch: str) -> tuple[str, dict[str, Any]]:
    """One of our backbones' name in timm, and what that name does not say of --arch FAMILY:NAME."""
    architecture = registry.architecture(arch)
    for name in (*registry.names("models"), *registry.variants()):
        if registry.architecture(name) == architecture:
            return PREFIX + name, {}
    family = architecture.module.__name__.rpartition(".")[2]
    return PREFIX + family, architecture.options


def timm_network(exported: Exported) -> nn.Module:
    """timm's network with these weights. ValueError where it cannot hold them."""
    name, options = timm_form(exported)
    model: Any = timm.create_model(name, pretrained=False, **options)
    if exported.arch.startswith(OF_TIMM):
        _fill_plain(model, exported)
    else:
        _fill_ours(model, exported)
    model.pretrained_cfg = model.default_cfg = pretrained_cfg(exported, name, model.pretrained_cfg)
    return model.eval()


def _fill_plain(model: Any, exported: Exported) -> None:
    """timm's own class: its body has our backbone's names, and each of its classifiers our head's weights."""
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    result = model.load_state_dict(exported.backbone.state_dict(), strict=False)
    left = [name for name in result.missing_keys if not name.startswith(tuple(heads))]
    if left or result.unexpected_keys:
        raise ValueError(
            f"--to timm: {exported.arch} with a classifier is another network in timm ({(left + result.unexpected_keys)[0]})"
            ": take --to onnx or torch"
        )
    if not exported.classes:
        return
    for name in heads:
        layer = model.get_submodule(name)
        for part, value in exported.file.head.items():
            parameter = getattr(layer, part)
            parameter.data.copy_(value.view_as(parameter))  # some classifiers are 1 x 1 convolutions


def _fill_ours(model: Any, exported: Exported) -> None:
    """Our backbone under timm's interface: names are those of a classifier of finetune."""
    if not exported.classes:
        model.backbone.load_state_dict(exported.backbone.state_dict())
        return
    state = exported.network.state_dict()
    own = model.state_dict()
    if state.keys() != own.keys():
        other = sorted(state.keys() ^ own.keys())[0]
        raise ValueError(
            f"--to timm: {PREFIX}{exported.arch} cannot hold {other} of {exported.path}: take --to onnx or torch"
        )
    model.load_state_dict(state)


def pretrained_cfg(exported: Exported, name: str, published: dict[str, Any]) -> dict[str, Any]:
    """timm's description of these weights: nothing of those that timm publishes under the same name."""
    share = exported.transform.crop_pct
    structure = {key: published.get(key) for key in ("first_conv", "classifier")}
    return {
        "architecture": name,
        "input_size": (exported.channels, exported.size, exported.size),
        "fixed_input_size": bool(published.get("fixed_input_size")),
        "interpolation": "bilinear" if share is None else "bicubic",
        "crop_pct": 1.0 if share is None else share,
        "crop_mode": "center",
        "mean": exported.transform.mean,
        "std": exported.transform.std,
        "num_classes": len(exported.classes),
        "pool_size": None,
        **structure,
    }


def write_folder(
    exported: Exported,
    model: nn.Module,
    folder: Path,
    texts: dict[str, str],
    check: Callable[[Callable[[Tensor], Tensor]], dict[str, float]],
) -> tuple[dict[str, float], int]:
    """model.safetensors, config.json and texts by their files' names; what `check` finds of the network that timm reads
    again, and the bytes written. Files of these names are replaced once all are whole and checked."""
    _, options = timm_form(exported)
    options.pop("num_classes")
    config = {"label_names": list(exported.classes)} if exported.classes else {}
    with _beside(folder) as whole:
        with write_errors(folder):
            save_for_hf(
                model, str(whole), model_config=config, model_args=options, safe_serialization=True
            )
            for name, text in texts.items():
                (whole / name).write_text(text, encoding="utf-8")
        again = timm.create_model(f"local-dir:{whole}", pretrained=True).eval()
        found = check(again)
        size = sum(path.stat().st_size for path in whole.iterdir())
        with write_errors(folder):
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
