"""Long work on images asks between its parts whether to stop; whoever hears signals says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_checks: list[Callable[[], None]] = []


@contextmanager
def asking(check: Callable[[], None]) -> Iterator[None]:
    """In here `check` is called between parts, in any thread; what it raises ends the work, which is kept so far."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def check() -> None:
    """Raises whatever is to end the work."""
    for each in _checks:
        each()
