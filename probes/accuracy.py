"""Accuracies of a classifier, and which epoch had the best."""

import torch


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """logits (N, classes), labels (N,) -> top-1 and top-5 accuracy in percent (of fewer classes: of all of them)."""
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return tuple(
        round(100 * hit.sum().item() / len(labels), 3) for hit in (hits[:, 0], hits.any(1))
    )


class Best:
    """The epoch of the best validation accuracy so far: `found` holds val_top1 in percent and epoch, or nothing."""

    def __init__(self):
        self.found: dict[str, float] = {}

    def improve(self, top1: float | None, epoch: int) -> bool:
        """Whether an epoch's accuracy is better than all before it; remembered if so. None is never better."""
        better = top1 is not None and top1 > self.found.get("val_top1", -1.0)
        if better:
            self.found = {"val_top1": top1, "epoch": epoch}
        return better

    def state_dict(self) -> dict[str, float]:
        return dict(self.found)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.found = dict(state)
