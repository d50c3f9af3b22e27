"""SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask for a stop: the step is finished, the state saved, the exit code says so."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from .watch import Watch

RESUME_ME = (
    75  # EX_TEMPFAIL of sysexits.h: not an error, try again; launch/slurm.sbatch requeues on it
)
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
STOPPED = b"stopped by a signal; the same command goes on from what was saved, or begins again\n"


@contextmanager
def ending_at_once() -> Iterator[Callable[[], None]]:
    """A signal ends the process with RESUME_ME wherever no Interrupt is open: as it imports, or has nothing to save.

    Call what it gives once all is imported: from then on SIGINT closes what is open. Once an exit code is chosen,
    signals change it no more: closing down takes seconds.
    """
    before: dict[int, Any] = {}
    code: Any = None
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, _end) for number in _numbers()}

    def imported() -> None:
        if before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    try:
        yield imported
    except KeyboardInterrupt:
        code = RESUME_ME
        _say_stopped()
        sys.exit(code)
    except SystemExit as ending:
        code = ending.code
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, partial(_end_with, code) if isinstance(code, int) else handler)


def _numbers() -> list[int]:
    """Those of the signals that this system has. nohup ignores SIGHUP, and it stays ignored."""
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) == signal.SIG_IGN:
        numbers.remove(hang_up)
    return numbers


def _end_with(code: int, _number: int, _frame: FrameType | None) -> None:
    """All is written and closed by now but for what the system closes itself."""
    os._exit(code)


def _end(_number: int, _frame: FrameType | None) -> None:
    """Nothing is raised: what is raised while modules are imported may be swallowed, or end the process otherwise."""
    _say_stopped()
    os._exit(RESUME_ME)


def _say_stopped() -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, STOPPED)


class Stopped(KeyboardInterrupt):
    """A signal ended what is not done in steps; what was done so far is kept."""


_watch: Watch | None = None  # of the outermost Interrupt, where there are several processes


class Interrupt:
    """`with Interrupt() as interrupt:` sets interrupt.asked at the first signal; a second SIGINT ends at once.

    Opened before the data are read, so that a signal while images are decoded is remembered, too. Of several processes,
    one that cannot stop for another is ended by engine/watch.py.
    """

    def __init__(self):
        self.asked = False
        self._before: dict = {}
        self._watches = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._start_watch()
            self._before = {number: signal.signal(number, self._handle) for number in _numbers()}
        return self

    def _start_watch(self) -> None:
        global _watch
        if _watch is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            _watch, self._watches = Watch({*_numbers()}, RESUME_ME), True

    def __exit__(self, *_: object) -> None:
        global _watch
        if _watch is not None and self._watches:
            _watch.close()
            _watch = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_if_asked(self) -> None:
        """Stopped once somebody has asked for it: between parts of what keeps its parts."""
        if self.asked:
            raise Stopped

    def _handle(self, number: int, _frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(
            outer, Interrupt
        ):  # a run within a command that runs several: none of them goes on
            outer.asked = True
        if number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
            os.write(2, b"\nstopping at the next step; Ctrl-C again ends at once, unsaved\n")


def _forget_watch() -> None:
    global _watch
    if _watch is not None:
        _watch.forget()
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watch)
