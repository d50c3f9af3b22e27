"""--head_init linear: the classifier begins as logistic regression on what the backbone gives before it is trained."""

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._classifier import TrainState
from multicrop.commands._features import shared_features
from multicrop.commands._finetune_data import FinetuneData
from multicrop.engine import ranks
from multicrop.probes import linear
from multicrop.supervised.classifier import Classifier


def fit_head(
    train_state: TrainState,
    data: FinetuneData,
    transform: EvalTransform,
    dtype: torch.dtype | None,
) -> None:
    """Linear probing, then finetuning: Kumar et al. 2022, arXiv 2202.10054.

    A head of random weights distorts good features while it learns, and a short run ends before it has. The training
    images are seen once, as evaluation sees them. ValueError where the network has two heads.
    """
    model, device = train_state.model, train_state.device
    if model.distill_head is not None:
        raise ValueError(
            "--head_init linear is for networks with one head, and a distillation token has its own: leave it out"
        )
    labels = data.labels[data.chosen]
    features = shared_features(model.backbone, data.train, data.chosen, transform, device, dtype)
    head = ranks.broadcast_object(lambda: _fitted(features, labels, len(data.train.classes)))
    networks: list[Classifier] = [model]
    if train_state.average:
        networks.append(train_state.average.model)
    for network in networks:
        network.head.load_state_dict(head)


def _fitted(features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    regression = linear.fit(features, labels)
    accuracy = regression.top1(features, labels)
    ranks.log(
        f"the classifier begins as logistic regression on the features of {len(labels)} training images: "
        f"top-1 {accuracy:.1f} on them"
    )
    weight, bias = regression.layer(classes)
    return {"weight": weight, "bias": bias}
