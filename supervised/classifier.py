"""A classifier: backbone and one linear layer."""

import torch
import torch.nn as nn


class Classifier(nn.Module):
    """Images (B, C, h, w) -> logits (B, classes). The head starts as published: weights of spread 0.02, bias 0."""

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))
