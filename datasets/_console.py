"""What reading images tells people on standard error: each line once, a progress bar where a terminal shows it."""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

MANY = 1000  # images that take long enough for a line in a log file


_said: set[str] = set()
_tries = 0  # how many `only_trying` are open


def say_once(line: str, subject: str | None = None) -> None:
    """Once per process, where both splits or two commands would say it again, and once of all ranks.

    subject: what it is about, if that is said in several ways of which the first is enough.
    """
    key = line if subject is None else subject
    if _tries or key in _said:
        return
    _said.add(key)
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, file=sys.stderr)


def forget() -> None:
    """Whatever was said may be said again."""
    _said.clear()


@contextmanager
def only_trying() -> Iterator[None]:
    """Nothing is said once in here: these images may turn out not to be those that are read."""
    global _tries
    _tries += 1
    try:
        yield
    finally:
        _tries -= 1


@functools.cache
def say_once_of(file: str, line: str) -> None:
    """Once per process of this file, or of what is called so. Every rank says what it alone may have met."""
    print(line, file=sys.stderr)


@contextmanager
def progress(count: int, title: str) -> Iterator[tqdm]:
    """A bar over so many images; in a log file, where each redraw would be a line, at most its title."""
    on_terminal = sys.stderr.isatty()
    if not on_terminal and count >= MANY:
        print(f"{title}: {count} images", file=sys.stderr)
    with tqdm(
        total=count,
        desc=title,
        disable=not on_terminal,
        unit=" images",
        file=sys.stderr,
        mininterval=0.5,
    ) as bar:
        yield bar
