"""TensorBoard's curves of a run."""

from pathlib import Path

WHAT = "TensorBoard curves"


class Board:
    """Writes events below a folder."""

    def __init__(self, folder: Path, first_step: int | None, anew: bool = False):
        """first_step: points from this step on, of a run that died, are dropped; None: there are none.

        anew: all points are dropped, of a run that began here before and had saved nothing.
        """
        if anew:
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        # Slow to import, and it imports TensorFlow where that is installed, which may be broken.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
