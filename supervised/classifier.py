"""A classifier: backbone and one linear layer, or two where the backbone has a distillation token."""

from typing import Literal, cast

import torch.nn as nn
from torch import Tensor

from .backbone import Backbone

HeadInit = Literal["normal", "zero", "linear"]


class Classifier(nn.Module):
    """Images (B, C, h, w) -> logits (B, classes). The head starts with weights of spread 0.02, or 0, and bias 0;
    with "linear" they are set later, by who has images.

    A distillation token (a backbone's `forward_tokens`) has a head of its own, and the logits are the mean of both
    (Touvron et al. 2021, arXiv 2012.12877).
    """

    frozen = False  # the backbone, see freeze_backbone

    def __init__(self, backbone: nn.Module, classes: int, head_init: HeadInit | None = "normal"):
        super().__init__()
        self.backbone = cast(Backbone, backbone)
        self.head = _linear_head(self.backbone.dim, classes, head_init)
        self.distill_head: nn.Linear | None = None
        if hasattr(backbone, "forward_tokens"):
            self.distill_head = _linear_head(self.backbone.dim, classes, head_init)

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, classes), of two heads their mean."""
        logits, distilled, _ = self.forward_heads(images)
        return mean_logits(logits, distilled)

    def forward_heads(
        self, images: Tensor, with_maps: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The logits of the head and of the distillation token's, the same tensor where there is none; all maps."""
        maps: dict[str, Tensor] = {}
        if self.distill_head is None:
            if with_maps:
                features, maps = self.backbone.forward_maps(images)
            else:
                features = self.backbone(images)
            logits = self.head(features)
            return logits, logits, maps
        if with_maps:
            tokens, maps = self.backbone.token_maps(images)
        else:
            tokens = self.backbone.forward_tokens(images)
        return self.head(tokens[0]), self.distill_head(tokens[1]), maps

    def load_heads(self, head: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        """The weights of a file's classifiers; one alone is for both tokens, which were averaged before it."""
        self.head.load_state_dict(head)
        if self.distill_head is not None:
            self.distill_head.load_state_dict(second or head)

    def freeze_backbone(self) -> None:
        """Only the head learns from now on; the backbone stays in evaluation mode."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        """As of any module, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def mean_logits(logits: Tensor, distilled: Tensor) -> Tensor:
    """The mean of both heads' logits; where they are one tensor, this."""
    if distilled is logits:
        return logits
    return (logits + distilled) / 2


def _linear_head(width: int, classes: int, init: HeadInit | None) -> nn.Linear:
    head = nn.Linear(width, classes)
    if init == "zero":
        nn.init.zeros_(head.weight)
    else:
        nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
