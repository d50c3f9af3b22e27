"""Blocks of a report that may be impossible: each that cannot be made becomes a line that says why."""

from collections.abc import Callable, Iterable

from multicrop.engine import ranks
from multicrop.engine.files import first_line
from multicrop.engine.optional import is_failure
from multicrop.pictures.page import Block, LeftOut


def attempt(what: str, make: Callable[[], Iterable[Block]]) -> list[Block]:
    """The blocks that `make` gives, and why it gives no more: a report holds what can be shown."""
    blocks: list[Block] = []
    try:
        for block in make():
            blocks.append(block)
    except BaseException as error:
        if not is_failure(error):
            raise
        reason = first_line(error)
        if not isinstance(error, ValueError | OSError):  # these are written for people
            reason = f"{type(error).__name__}: {reason}"
        ranks.log(f"report: left out: {what}: {reason}")
        blocks.append(LeftOut(what, reason))
    return blocks
