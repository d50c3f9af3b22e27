"""What a run can do without: pictures, curves, tables beside the result. None of it may end a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from . import ranks
from .files import first_line


@contextmanager
def optional(what: str) -> Iterator[None]:
    """An error inside becomes a warning line that says what is missing now and why; what comes after goes on."""
    try:
        yield
    except (
        Exception
    ) as error:  # a library of pictures or curves, or one that it imports, may raise anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        ranks.log(f"warning: no {what}: {reason}; all else goes on")
