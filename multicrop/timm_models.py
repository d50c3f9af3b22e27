"""The backbones of models/ as timm models: after `import multicrop.timm_models`, timm.create_model("multicrop_<name>").

<name> is a file of models/ or a name in its VARIANTS: timm.list_models("multicrop_*"). timm has no plug-in mechanism:
the import is the registration, and builds nothing. Options are timm's img_size, in_chans, num_classes and drop_rate (of
the classifier's input), drop_path_rate, proj_drop_rate (drop_rate of the backbone), and the backbone's own by their
names. What differs from most of timm's models:

- forward_features gives what the published classifier reads, pooled (B, num_features): the pooling (CLS token, sequence
  pooling, class attention, ...) is part of the backbone, so that there is no global_pool to choose.
- forward_intermediates and features_only give all maps unless told which: the ends of the stages, or every block in a
  family with one stage. All blocks are computed.
- Features for two heads, of a backbone with a distillation token, are both tokens (B, 2, num_features).
- pretrained=True takes the first file that others have published for that name (`multicrop weights` lists them), or
  what pretrained_cfg_overlay has as `file`: another published:NAME, a run folder, or a file of ours, of the published
  code or of others. What it says (the backbone's options, image size, classes, mean and std) is taken over where it is
  not given; without one, the mean and std of default_cfg are only timm's defaults. `checkpoint_key` picks a network of
  the file as the commands' flag does. drop_path_rate is the backbone's own 0.1 unless given.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from . import _timm_files as files
from . import registry
from ._timm_files import checkpoint_filter_fn
from ._timm_model import PREFIX, TimmModel
from .weights import pretrained as weights_files
from .weights.pretrained import Pretrained

# Options of timm.create_model that do not shape the network
NOT_SAVED = ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "cache_dir")
IMAGE_SIZE = 32  # pixels, of a family's file, which has no published size of its own


def load(path: str | Path, key: str = "teacher") -> nn.Module:
    """The network of a run folder or of one of our checkpoint files as a timm model, in evaluation mode.

    One of --arch timm:<name> is timm's own model. `timm.models.save_for_hf(model, folder)` then writes a folder that
    timm.create_model("local-dir:...") reads. ValueError for a file that does not say its architecture.
    """
    file = weights_files.read(path, key)
    arch = file.metadata.backbone.get("arch")
    if arch is None:
        raise ValueError(
            f"{file.path} does not say its architecture: use timm.create_model with it as the overlay's `file`"
        )
    family, _, name = arch.partition(":")
    if name and family == "timm":
        return files.as_timms_own(file)
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(path)}}
    if name:
        options["name"] = name
    return _from_file(_registered(family if name else arch), file, options).eval()


def _registered(arch: str) -> str:
    """The name here of an architecture that a checkpoint may spell in another way."""
    architecture = registry.architecture(arch)
    return next(name for name in _sizes() if registry.architecture(name) == architecture)


def _create(
    arch: str, pretrained: bool = False, checkpoint_key: str = "teacher", **options: Any
) -> nn.Module:
    path = files.named_file(PREFIX + arch, options) if pretrained else None
    if path:
        return _from_file(arch, weights_files.read(path, checkpoint_key), options)
    return _build(arch, partial(TimmModel, arch), pretrained, options)


def _from_file(arch: str, file: Pretrained, options: dict[str, Any]) -> nn.Module:
    """What the file says is taken where the options do not say it."""
    overlay = options.get("pretrained_cfg_overlay") or {}
    options = files.model_options(arch, file, options.get("img_size")) | options
    options["pretrained_cfg_overlay"] = files.described(file) | overlay
    return _build(arch, partial(_build_filled, arch, file), False, options)


def _build(
    arch: str, build: Callable[..., TimmModel], pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    model: Any = build_model_with_cfg(
        build,
        PREFIX + arch,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"feature_cls": "getter", "out_indices": None},
        **options,
    )
    # What save_for_hf writes, so that the network can be built again; older timm wants it as model_args=
    model._model_args = {key: options[key] for key in options if key not in NOT_SAVED}
    return model


def _build_filled(arch: str, file: Pretrained, **options: Any) -> TimmModel:
    model = TimmModel(arch, **options)
    files.fill(model, file)
    return model


def _sizes() -> dict[str, int]:
    """Every name and its image size in pixels: {"vit": 32, "cct_7_3x1_32": 32, ...}."""
    families = {name: IMAGE_SIZE for name in registry.names("models") if name != "timm"}
    published = {
        name: module.VARIANTS[name].get("image_size", IMAGE_SIZE)
        for name, module in registry.variants().items()
    }
    return families | published


def _config(arch: str, size: int) -> dict:
    """timm's description of a model for square images of `size` px."""
    distilled = registry.architecture(arch).options.get("distilled", False)
    return {
        "input_size": (3, size, size),
        "fixed_input_size": True,
        "crop_pct": 0.875 if size >= 224 else 1.0,
        "classifier": ("head", "distill_head") if distilled else "head",
        "num_classes": 1000,
    }


def _register(arch: str) -> None:
    """timm keeps functions by their name and looks for `default_cfgs` in their module."""

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create(arch, pretrained, **options)

    entry.__name__ = entry.__qualname__ = PREFIX + arch
    setattr(sys.modules[__name__], entry.__name__, register_model(entry))


default_cfgs = generate_default_cfgs(
    {PREFIX + arch: _config(arch, size) for arch, size in _sizes().items()}
)
for _arch in _sizes():
    _register(_arch)
