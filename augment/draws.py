"""The random numbers of a batch, drawn on the CPU for the whole (global) batch and then cut by rank."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True)
class Draws:
    """Base of the parameter sets: every field is a tensor with leading dimension B, another Draws, or None."""

    def __getitem__(self, rows: slice | torch.Tensor) -> Draws:
        """The parameters of some samples of the batch."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: None if value is None else value[rows] for name, value in values.items()}
        )
