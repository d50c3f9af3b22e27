"""A thread that hears signals while a process waits for other ranks inside a collective, where Python runs no handler.

It ends a process that was asked to stop and cannot, because another rank hangs, is stopped, or cannot be reached.
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from . import waits

STOP_SECONDS = "MULTICROP_STOP_SECONDS"
STEPS = 3  # times the longest step so far: a slow one is no hang
APART = 1.0  # seconds between signals that are two; a terminal and a launcher may both pass on one
CLOSE = b"\0"  # sent among the signals; none has this number
PAUSE = 0.25  # seconds between looks at the clock, once a signal has come


class Wait(NamedTuple):
    """What this process may be waiting in for other ranks."""

    what: str
    since: float
    limited: bool
    """Whether they answer soon; not where one works and the others wait for it."""


_now: Wait | None = None
_longest = 0.0  # seconds of the longest step
describe_lost: Callable[[], str] | None = (
    None  # the ranks that are not heard of, where there are heartbeats
)


def current() -> Wait | None:
    """What this process may be waiting in now."""
    return _now


def begin_step(step: int) -> None:
    """From here on the ranks wait for each other's gradients, until `end_step`."""
    global _now
    _now = Wait(f"step {step}", time.monotonic(), limited=True)


def end_step() -> None:
    global _now, _longest
    if _now is not None:
        _longest = max(_longest, time.monotonic() - _now.since)
    _now = None


@contextmanager
def waiting(what: str, limited: bool) -> Iterator[None]:
    """Inside, this process may wait for other ranks, which is called `what`; in a step that is limited the step is.

    What has no limit does not count as time of the step around it.
    """
    global _now
    before = _now
    if not (limited and before is not None and before.limited):
        _now = Wait(what, time.monotonic(), limited)
    try:
        yield
    finally:
        if before is not None and not limited:
            before = before._replace(since=time.monotonic())
        _now = before


def stop_seconds() -> float:
    """$MULTICROP_STOP_SECONDS, how long a rank that was asked to stop waits for the others; 30 where it is not set."""
    return waits.stated(STOP_SECONDS, "30", 1e6, "seconds that a rank can wait")


class Watch:
    """The thread, until `close`; opened and closed by the main thread."""

    def __init__(self, numbers: set[int], code: int):
        """numbers: the signals that ask for a stop. code: what the process then ends with."""
        self._numbers, self._code, self._limit = numbers, code, stop_seconds()
        self._heard, self._written = socket.socketpair()  # Windows takes no pipe
        self._written.setblocking(False)
        number = self._written.fileno()
        self._before = signal.set_wakeup_fd(number, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._written.send(CLOSE)
        self._thread.join()
        self._close_sockets()

    def forget(self) -> None:
        """In a forked process, which has no such thread and must not be heard as this one."""
        signal.set_wakeup_fd(-1)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._written.close()
        self._heard.close()

    def _listen(self) -> None:
        asked: float | None = None  # when the last signal came
        while True:
            ready, _, _ = select.select([self._heard], [], [], None if asked is None else PAUSE)
            now = time.monotonic()
            if ready:
                heard = self._heard.recv(64)
                if CLOSE in heard:
                    return
                if self._numbers & {*heard}:
                    if asked is not None and is_ended_by_second(_now, asked, now):
                        self._end("asked to stop once more")
                    asked = now
            if asked is not None and is_over(_now, asked, now, self._limit, _longest):
                self._end(f"asked to stop {now - asked:.0f} s ago")

    def _end(self, why: str) -> None:
        wait = _now
        if wait is None:
            return
        lost = describe_lost() if describe_lost else ""
        named = f" ({lost})" if lost else ""
        line = (
            f"process {os.environ.get('RANK', '0')}: {why}, and still waiting for another rank in {wait.what}{named}: "
            "ended unsaved; what was saved before is intact, the same command goes on from there\n"
        )
        with suppress(OSError):
            os.write(2, line.encode())
        os._exit(self._code)


def is_ended_by_second(wait: Wait | None, asked: float, now: float) -> bool:
    """Whether a signal that comes now ends a process: it has been in this wait since the one before."""
    return wait is not None and wait.since <= asked and now - asked >= APART


def is_over(wait: Wait | None, asked: float, now: float, limit: float, longest: float) -> bool:
    """Whether a process that was asked to stop has waited too long. All in seconds."""
    if wait is None or not wait.limited:
        return False
    return now - max(asked, wait.since) > max(limit, STEPS * longest)
