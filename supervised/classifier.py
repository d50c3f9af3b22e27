"""A classifier: backbone and one linear layer."""

import torch
import torch.nn as nn


class Classifier(nn.Module):
    """Images (B, C, h, w) -> logits (B, classes). The head starts as published: weights of spread 0.02, bias 0."""

    frozen = False

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))

    def freeze_backbone(self) -> None:
        """Only the head learns from now on; the backbone stays in evaluation mode."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self
