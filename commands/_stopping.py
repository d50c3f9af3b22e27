"""Signals while a command works: they end it between its steps, and between the parts of a long decoding."""

from collections.abc import Iterator
from contextlib import contextmanager

from multicrop.datasets import _stopping
from multicrop.engine.interrupt import Interrupt


@contextmanager
def stoppable() -> Iterator[Interrupt]:
    """An Interrupt; in here a signal ends a decoding, too, by Stopped: the same command goes on with it."""
    with Interrupt() as interrupt, _stopping.asking(interrupt.raise_if_asked):
        yield interrupt
