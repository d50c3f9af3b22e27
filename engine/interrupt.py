"""SIGTERM, SIGINT and SIGUSR1 ask for a stop: the step is finished, the state saved, and the exit code says so."""

import os
import signal
import threading

RESUME_ME = (
    75  # EX_TEMPFAIL of sysexits.h: not an error, try again; launch/slurm.sbatch requeues on it
)
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


class Interrupt:
    """`with Interrupt() as interrupt:` sets interrupt.asked at the first signal; a second SIGINT ends at once.

    Opened before the data are read, so that a signal while images are decoded is remembered, too.
    """

    def __init__(self):
        self.asked = False
        self._before: dict = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
