"""Where a run's numbers go beside metrics.jsonl. They repeat it, so that a run goes on without them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from .optional import optional


class Writer(Protocol):
    """Curves of one kind."""

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """A point on the curve of each name."""

    def close(self) -> None:
        """Write what is left."""


class Outlet:
    """A writer, until anything goes wrong with it: that is said once."""

    def __init__(self, what: str, make: Callable[[], Writer]):
        """what: the name of it in a warning."""
        self._what = what
        self._writer: Writer | None = None
        with optional(what):
            self._writer = make()

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """What of the values are numbers."""
        numbers = numbers_of(values)
        with self._writing() as writer:
            if writer is not None and numbers:
                writer.add(step, numbers)

    def close(self) -> None:
        with self._writing() as writer:
            if writer is not None:
                writer.close()

    @contextmanager
    def _writing(self) -> Iterator[Writer | None]:
        """The writer, None where there is none any more; one that fails is not used again."""
        with optional(self._what):
            try:
                yield self._writer
            except Exception:
                self._writer = None
                raise


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of a row's values that make a curve; its step and time are the axes."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and name not in ("step", "time")
    }
