"""Initial values that most transformers share."""

import torch.nn as nn


def initialise_linear(module: nn.Module) -> None:
    """For Module.apply: a Linear layer's weights normal with std 0.02, its bias 0; other modules stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
