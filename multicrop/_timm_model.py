"""The class behind our timm models: a backbone and a linear classifier, with the methods that timm's users call."""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from . import registry

PREFIX = "multicrop_"


class TimmModel(nn.Module):
    """A backbone and a linear classifier: images (B, C, h, w) -> logits (B, num_classes), or features for 0 classes.

    Weights are named `backbone.*`, `head.*` and, where the backbone has a distillation token, `distill_head.*`, as in
    the checkpoints of finetune.
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
            arch, img_size, in_channels=in_chans, drop_rate=proj_drop_rate, **options
        )
        self.distilled = hasattr(self.backbone, "forward_tokens")
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
        self.head = self._new_head()
        if self.distilled:
            self.distill_head = self._new_head()

    def _new_head(self) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        like = next(self.backbone.parameters())
        width: int = self.backbone.dim
        head = nn.Linear(width, self.num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The linear layer, or of a backbone with a distillation token both, whose logits are averaged."""
        return (self.head, self.distill_head) if self.distilled else self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, h, w) -> pooled features (B, num_features), or both tokens (B, 2, num_features)."""
        if self.distilled:
            return torch.stack(self.backbone.forward_tokens(x), dim=1)
        return self.backbone(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits (B, num_classes), or with pre_logits what the classifier reads (B, num_features)."""
        x = self.head_drop(x)
        if not self.distilled:
            return x if pre_logits else self.head(x)
        if pre_logits:
            return x.mean(dim=1)
        class_token, distillation_token = x.unbind(dim=1)
        return (self.head(class_token) + self.distill_head(distillation_token)) / 2

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Images -> what forward_features gives and the maps (B, width, h, w) that `indices` of feature_info name.

        stop_early changes nothing: all is computed. ValueError for norm or another output_fmt.
        """
        if norm or output_fmt != "NCHW":
            raise ValueError(
                "multicrop's backbones give maps as they are, in NCHW: leave norm and output_fmt out"
            )
        taken = _taken(len(self.map_names), indices)
        if self.distilled:
            tokens, maps = self.backbone.token_maps(x)
            features = torch.stack(tokens, dim=1)
        else:
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
