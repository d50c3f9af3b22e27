"""--head_init linear: the classifier begins as logistic regression on what the backbone gives before it is trained."""

from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._classifier import TrainState
from multicrop.commands._features import gathered, own_features
from multicrop.commands._finetune_data import FinetuneData
from multicrop.engine import ranks
from multicrop.probes import linear
from multicrop.supervised.classifier import Classifier

PENALTY = 0.2
"""Of the L2 norm, as a share of the mean loss. Large weights on features that hardly differ are wrong after a few
steps: with much less `shapes` ends at 82 % in place of 91, and 48 images at chance after an epoch (LOG.md)."""


def fit_heads(
    train_state: TrainState,
    data: FinetuneData,
    transform: EvalTransform,
    dtype: torch.dtype | None,
) -> None:
    """Linear probing, then finetuning: Kumar et al. 2022, arXiv 2202.10054.

    A head of random weights distorts good features while it learns, and a short run ends before it has. The training
    images are seen once, as evaluation sees them; the head of a distillation token is fitted on that token.
    """
    model = train_state.model
    settings = data.train, data.chosen, transform, train_state.device, dtype
    features = gathered(own_features(_Tokens(model), *settings), to=0)  # which fits
    classes, labels = len(data.train.classes), data.labels[features.indices]
    heads = ranks.broadcast_object(
        lambda: [_fitted(token, labels, classes) for token in features.values.unbind(1)]
    )
    model.load_heads(heads[0], heads[-1])
    if train_state.average:
        train_state.average.model.load_heads(heads[0], heads[-1])


class _Tokens(nn.Module):
    """Images (B, C, h, w) -> what each head of a classifier sees (B, heads, D)."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.backbone, self.several = classifier.backbone, classifier.distill_head is not None

    def forward(self, images: Tensor) -> Tensor:
        if self.several:
            return torch.stack(self.backbone.forward_tokens(images), dim=1)
        return cast(Tensor, self.backbone(images)).unsqueeze(1)


def _fitted(features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Features (n, D), labels (n,) -> a head's state dict."""
    regression = linear.fit(features, labels, c=1 / (PENALTY * len(labels)))
    accuracy = regression.top1(features, labels)
    ranks.log(
        f"the classifier begins as logistic regression on the features of {len(labels)} training images, top-1 "
        f"{accuracy:.1f} on these (--head_init normal: random weights)"
    )
    weight, bias = regression.layer(classes)
    return {"weight": weight, "bias": bias}
