"""What a run can do without: pictures, curves, tables beside the result. None of it may end a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from . import ranks
from .files import first_line

PANIC = "PanicException"  # of a library in Rust (pyo3): no Exception for Python


@contextmanager
def optional(what: str) -> Iterator[None]:
    """An error inside becomes a warning line that says what is missing now and why; what comes after goes on."""
    try:
        yield
    except (
        BaseException
    ) as error:  # a library of pictures or curves, or one of its own, may raise anything
        if not is_failure(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        ranks.log(f"warning: no {what}: {reason}; all else goes on")


def is_failure(error: BaseException) -> bool:
    """Whether something went wrong: not where a user or the system ends the process."""
    return isinstance(error, Exception) or type(error).__name__ == PANIC
