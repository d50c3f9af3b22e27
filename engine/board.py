"""TensorBoard's curves of a run. They repeat metrics.jsonl, so that a run goes on without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .optional import optional

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WHAT = "TensorBoard curves"


class Board:
    """Writes events below a folder, until anything goes wrong with them: that is said once."""

    def __init__(self, folder: Path, first_step: int | None):
        """first_step: points from this step on, of a run that died, are dropped; None: there are none."""
        self._writer: SummaryWriter | None = None
        with optional(WHAT):
            # Slow to import, and it imports TensorFlow where that is installed, which may be broken.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """A point on the curve of each number."""
        with self._writing() as writer:
            if writer is None:
                return
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        with self._writing() as writer:
            if writer is not None:
                writer.close()

    @contextmanager
    def _writing(self) -> Iterator[SummaryWriter | None]:
        """The writer, None where there is none any more; one that fails is not used again."""
        with optional(WHAT):
            try:
                yield self._writer
            except Exception:
                self._writer = None
                raise
