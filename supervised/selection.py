"""Which epoch of a run the validation images select."""


class BestEpoch:
    """The epoch of the best value so far of one validation accuracy, in percent; both None before the first.

    metric: the accuracy's name, as rows of metrics and checkpoints have it.
    """

    def __init__(self, metric: str = "val_top1") -> None:
        self.metric = metric
        self.epoch: int | None = None
        self.value: float | None = None

    def improve(self, value: float | None, epoch: int) -> bool:
        """Whether an epoch's accuracy is better than all before it; remembered if so. None is never better."""
        if value is None:
            return False
        if self.value is not None and value <= self.value:
            return False
        self.value, self.epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint holds: nothing before the first epoch that was measured."""
        if self.value is None or self.epoch is None:
            return {}
        return {self.metric: self.value, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = self.epoch = None
        if state:
            self.value, self.epoch = state[self.metric], int(state["epoch"])
