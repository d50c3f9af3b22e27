"""Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7) and pairs of labels."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Objective(nn.Module):
    """smoothing: the share of the target spread evenly over all classes."""

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = smoothing

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
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
