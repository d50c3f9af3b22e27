"""The random numbers of a batch, drawn on the CPU for the whole (global) batch and then cut by rank."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Draws:
    """Base of the parameter sets: every field is a tensor with leading dimension B, another Draws, or None."""

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The parameters of some samples of the batch."""
        selected = {}
        for field in fields(self):
            values = getattr(self, field.name)
            selected[field.name] = None if values is None else values[rows]
        return type(self)(**selected)
