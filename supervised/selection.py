"""Which epoch of a run the validation images select."""


class BestEpoch:
    """The epoch of the best validation accuracy so far, in percent; both None before the first."""

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.val_top1: float | None = None

    def improve(self, val_top1: float | None, epoch: int) -> bool:
        """Whether an epoch's accuracy is better than all before it; remembered if so. None is never better."""
        if val_top1 is None:
            return False
        if self.val_top1 is not None and val_top1 <= self.val_top1:
            return False
        self.val_top1, self.epoch = val_top1, epoch
        return True

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint holds: nothing before the first epoch that was measured."""
        if self.val_top1 is None or self.epoch is None:
            return {}
        return {"val_top1": self.val_top1, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.val_top1 = self.epoch = None
        if state:
            self.val_top1, self.epoch = state["val_top1"], int(state["epoch"])
