"""Standard output and error of a program that must not end because nobody reads them, or their disk is full."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Lasting:
    """A text stream that goes on, into nothing, once it cannot be written any more: `2>&1 | head`, a full disk."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_result(text: str) -> None:
    """The line on standard output with which a command ends; it has done its work though nobody reads it any more."""
    try:
        print(text, flush=True)
    except OSError as error:
        drop(sys.stdout)
        print(f"standard output: {error.strerror}; the result: {text}", file=sys.stderr, flush=True)


def drop(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, into nothing: else the interpreter fails as it ends."""
    with suppress(OSError, ValueError):  # a stream of a test has no number
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
