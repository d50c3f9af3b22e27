"""The backbones of models/ as timm models: after `import multicrop.timm_models`, timm.create_model("multicrop_<name>").

<name> is a file of models/ or a name in its VARIANTS: timm.list_models("multicrop_*"). timm has no plug-in mechanism:
the import is the registration, and builds nothing. Options are timm's img_size, in_chans, num_classes and drop_rate (of
the classifier's input), drop_path_rate, proj_drop_rate (drop_rate of the backbone), and the backbone's own by their
names. What differs from most of timm's models:

- forward_features gives what the published classifier reads, pooled (B, num_features): the pooling (CLS token, sequence
  pooling, class attention, ...) is part of the backbone, so that there is no global_pool to choose.
- forward_intermediates and features_only give all maps unless told which: the ends of the stages, or every block in a
  family with one stage. All blocks are computed.
- No weights are published here (pretrained=True needs a pretrained_cfg_overlay with `file`; ours, and the published
  code's, load by their names), so the mean and std of default_cfg are only timm's defaults. drop_path_rate is the
  backbone's own 0.1 unless given.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from . import registry
from .weights import loading
from .weights.pretrained import CLASSIFIERS, split_off

PREFIX = "multicrop_"
IMAGE_SIZE = 32  # pixels, of a family's file, which has no published size of its own


class TimmModel(nn.Module):
    """A backbone and a linear classifier: images (B, C, h, w) -> logits (B, num_classes), or features for 0 classes.

    Weights are named `backbone.*` and `head.*`, as in the checkpoints of finetune.
    """

    backbone: Any  # of models/, by whose contract it has dim, maps, stages and forward_maps

    def __init__(
        self,
        arch: str,
        *,
        img_size: int | tuple[int, int],
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        proj_drop_rate: float | None = None,
        global_pool: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        _check_pool(global_pool)
        self.arch, self.in_chans = arch, in_chans
        self.backbone = registry.backbone(
            arch, _side(img_size), in_channels=in_chans, drop_rate=proj_drop_rate, **options
        )
        self.num_features = self.head_hidden_size = self.backbone.dim
        self.map_names: tuple[str, ...] = self.backbone.stages
        if len(self.map_names) == 1:
            self.map_names = tuple(self.backbone.maps)
        self.feature_info = []
        for name in self.map_names:
            size = self.backbone.maps[name]
            info = {"module": f"backbone.{name}", "num_chs": size.width, "reduction": size.stride}
            self.feature_info.append(info)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, weights of spread 0.02 and bias 0; none for 0 classes. ValueError for a global_pool."""
        _check_pool(global_pool)
        self.num_classes = num_classes
        like = next(self.backbone.parameters())
        self.head: nn.Module = nn.Identity()
        if num_classes:
            width: int = self.backbone.dim
            head = nn.Linear(width, num_classes, device=like.device, dtype=like.dtype)
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
            self.head = head

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, h, w) -> pooled features (B, num_features)."""
        return self.backbone(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, num_features) -> logits (B, num_classes), or with pre_logits what the classifier reads."""
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images -> features (B, num_features) and the maps (B, width, h, w) that `indices` of feature_info name.

        stop_early changes nothing: all is computed. ValueError for norm or another output_fmt.
        """
        if norm or output_fmt != "NCHW":
            raise ValueError(
                "multicrop's backbones give maps as they are, in NCHW: leave norm and output_fmt out"
            )
        taken = _taken(len(self.map_names), indices)
        features, maps = self.backbone.forward_maps(x)
        intermediates = [maps[self.map_names[index]] for index in taken]
        return intermediates if intermediates_only else (features, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | None = None,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """The indices counted from the start; the classifier goes, all of the backbone stays."""
        if prune_head:
            self.reset_classifier(0)
        return _taken(len(self.map_names), indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """ValueError: activations are always kept."""
        if enable:
            raise ValueError(
                f"{PREFIX}{self.arch} has no gradient checkpointing; a smaller batch saves memory"
            )

    def no_weight_decay(self) -> set[str]:
        """Names of the weights that timm's optimizers should not decay, besides biases and norms."""
        names: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in names}


def _side(img_size: int | tuple[int, int]) -> int:
    """ValueError unless the image is square: other shapes are for forward."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height != width:
        raise ValueError(
            f"img_size {height} x {width}: build for square images; forward takes others where it can"
        )
    return height


def _taken(count: int, indices: int | list[int] | None) -> list[int]:
    """Which of `count` maps timm's indices mean: all, the last so many, or a list that may count from the end."""
    if indices is None:
        indices = count
    if isinstance(indices, int):
        indices = list(range(-indices, 0))
    for index in indices:
        if not -count <= index < count:
            raise ValueError(f"there is no map {index}: this backbone has {count} of them")
    return [index % count for index in indices]


def _check_pool(global_pool: str | None) -> None:
    if global_pool is not None:
        raise ValueError(
            f"global_pool {global_pool!r}: the pooling is part of multicrop's backbones; leave it out"
        )


def checkpoint_filter_fn(state: dict, model: TimmModel) -> dict[str, Tensor]:
    """What timm read from a checkpoint of ours or of the published code -> `backbone.*` and `head.*` for this model.

    A file without a classifier leaves the model's own.
    """
    state = loading.backbone_state_dict(state, Path("the file"))
    head = split_off(state, CLASSIFIERS) or model.head.state_dict()
    adapt = registry.adapter(model.arch)
    if adapt:
        state = adapt(state, model.backbone)
    weights = {f"backbone.{name}": value for name, value in state.items()}
    for name, value in head.items():
        weights[f"head.{name}"] = value
    return weights


def _sizes() -> dict[str, int]:
    """Every name and its image size in pixels: {"vit": 32, "cct_7_3x1_32": 32, ...}."""
    families = {name: IMAGE_SIZE for name in registry.names("models") if name != "timm"}
    published = {
        name: module.VARIANTS[name].get("image_size", IMAGE_SIZE)
        for name, module in registry.variants().items()
    }
    return families | published


def _config(size: int) -> dict:
    """timm's description of a model for square images of `size` px."""
    return {
        "input_size": (3, size, size),
        "fixed_input_size": True,
        "crop_pct": 0.875 if size >= 224 else 1.0,
        "classifier": "head",
        "num_classes": 1000,
    }


def _create(arch: str, pretrained: bool = False, **options: Any) -> nn.Module:
    return build_model_with_cfg(
        partial(TimmModel, arch),
        PREFIX + arch,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"feature_cls": "getter", "out_indices": None},
        **options,
    )


def _register(arch: str) -> None:
    """timm keeps functions by their name and looks for `default_cfgs` in their module."""

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create(arch, pretrained, **options)

    entry.__name__ = entry.__qualname__ = PREFIX + arch
    setattr(sys.modules[__name__], entry.__name__, register_model(entry))


default_cfgs = generate_default_cfgs(
    {PREFIX + arch: _config(size) for arch, size in _sizes().items()}
)
for _arch in _sizes():
    _register(_arch)
