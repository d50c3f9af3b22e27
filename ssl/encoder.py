"""An encoder: backbone and head over crops of several sizes. Student and teacher are two encoders.

B images, V views, G of them global, C channels, D features, K prototypes.
"""

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..config.sizes import ImageSize, height_width, in_words


class Views(NamedTuple):
    """What an encoder makes of crops."""

    outputs: Tensor  # (V, B, K) of the head, views in the order given
    features: Tensor  # (G, B, D) of the backbone, of the first size's views
    logits: Tensor | None  # (G, B, classes) of these, where labels are learned, too


class Encoder(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Module, classifier: nn.Module | None = None):
        """classifier: of joint training with labels, on the features of the first size's views."""
        super().__init__()
        self.backbone, self.head, self.classifier = backbone, head, classifier

    def forward(self, *crops: Tensor) -> Views:
        """Crops (n, B, C, h, w), one tensor a size -> outputs (V, B, K) and features of the first size.

        One pass of the backbone for each size, one of the head for all.
        """
        batch = crops[0].shape[1]
        features = [self.backbone(views.flatten(0, 1)) for views in crops if len(views)]
        outputs = self.head(torch.cat(features)).unflatten(0, (-1, batch))
        first = features[0].unflatten(0, (-1, batch))
        return Views(outputs, first, self.classifier(first) if self.classifier else None)


def check_sizes(backbone: nn.Module, channels: int, *sizes: ImageSize) -> None:
    """Try the backbone on each image size before training. ValueError names the first that fails and what works."""
    for size in sizes:
        problem = _problem(backbone, channels, size)
        if problem:
            works = [
                s
                for s in range(4, 2 * max(max(height_width(size)) for size in sizes) + 1, 4)
                if _problem(backbone, channels, s) is None
            ]
            remedy = (
                f"it takes {', '.join(map(str, works))}"
                if works
                else "no size up to twice that works either"
            )
            raise ValueError(
                f"the backbone cannot take crops of {in_words(size)} px ({problem}); {remedy} (px)"
            )


@torch.no_grad()
def _problem(backbone: nn.Module, channels: int, size: ImageSize) -> str | None:
    training = backbone.training
    try:
        features = backbone.eval()(torch.zeros(2, channels, *height_width(size)))
    except Exception as error:  # any backbone, any way of refusing a size
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    finally:
        backbone.train(training)
    if features.shape != (2, backbone.dim):
        return f"features have shape {tuple(features.shape)} instead of (2, {backbone.dim})"
    return None
