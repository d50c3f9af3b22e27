"""Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7), pairs, weights."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Objective(nn.Module):
    """smoothing: the share of the target spread evenly over all classes.

    class_weights (classes,): an image's loss is multiplied by its class's, smoothed part and all. (torch's own weights
    multiply each class's part of the smoothed target, which draws every image towards the heavy classes.) The loss is
    the plain mean over images, so that it does not depend on how a batch is spread over ranks.
    """

    class_weights: torch.Tensor | None

    def __init__(self, smoothing: float = 0.1, class_weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        partners: torch.Tensor | None = None,
        share: float = 1.0,
    ) -> torch.Tensor:
        """logits (B, classes), labels (B,), of mixed images also their partners' (B,) and the own share -> nats."""
        own = self._smoothed(logits, labels)
        if share == 1:
            return own
        assert partners is not None
        return share * own + (1 - share) * self._smoothed(logits, partners)

    def _smoothed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        losses = F.cross_entropy(
            logits.float(), labels, label_smoothing=self.smoothing, reduction="none"
        )
        return (self.class_weights[labels] * losses).mean()
