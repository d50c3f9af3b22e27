"""A process that prints lines and has a limit: of time for each line, and of time in all."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Literal, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CLOSING = 15.0  # seconds for a process that has closed its standard output to end


class Ended(NamedTuple):
    """How it ended: by itself, because a line took too long, or because all of the time was over."""

    why: Literal["itself", "line", "time"]
    code: int | None
    messages: str
    """The end of its standard error."""


def follow(
    words: Sequence[str],
    take: Callable[[str], None],
    *,
    line_seconds: float | None,
    seconds: float,
    grace: float,
) -> Ended:
    """Run `python WORDS` at the root and give each line of its standard output to `take` as soon as it is printed.

    A process that is late, or that we are interrupted in, gets SIGTERM and so many seconds of grace to save and print
    what it has. Whatever it has started ends with it.
    """
    with TemporaryFile("w+", errors="replace") as messages:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=messages, text=True,
            start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        reader = Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        why: Literal["itself", "line", "time"] = "time"
        try:
            why = _take_lines(lines, take, line_seconds, time.monotonic() + seconds)
        finally:
            _end(process, why == "itself", grace)
            reader.join(timeout=10)
            if not reader.is_alive():  # else a process out of our reach holds the other end
                process.stdout.close()
            while not lines.empty():  # what it printed at the end
                line = lines.get()
                if line is not None:
                    take(line)
        messages.seek(0)
        return Ended(why, process.returncode, messages.read().strip()[-2000:])


def _read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _take_lines(
    lines: "queue.Queue[str | None]",
    take: Callable[[str], None],
    line_seconds: float | None,
    deadline: float,
) -> Literal["itself", "line", "time"]:
    while True:
        left = deadline - time.monotonic()
        limit = left if line_seconds is None else min(left, line_seconds)
        try:
            line = lines.get(timeout=max(0.0, limit))
        except queue.Empty:
            return "time" if limit == left else "line"
        if line is None:
            return "itself"
        take(line)


def _end(process: "subprocess.Popen[str]", closes: bool, grace: float) -> None:
    """Its standard output is closed and it closes down, or it is late; what it has started ends in any case."""
    try:
        if not closes:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=CLOSING if closes else grace)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
