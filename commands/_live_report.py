"""report.html of a run that keeps it up to date itself: the part about the run, within a share of its time."""

import time

from multicrop.commands import _report_run, _report_write
from multicrop.commands._report_folder import RunFolder
from multicrop.engine.optional import optional
from multicrop.engine.run import Run
from multicrop.pictures.page import check_installed

SHARE = 0.01  # of the run's time, at most, but for the last version
FIRST = 8.0  # s that a version is taken to need before one is measured: it imports
RELOAD = 30  # s between two looks of an open page


def check(wanted: bool) -> None:
    """ValueError where a library of the page is missing: before a run has written anything."""
    if wanted:
        check_installed()


class LiveReport:
    """Rewrites the page where there is time for it; only rank 0 does, and no error of it ends a run."""

    def __init__(self, wanted: bool, run_folder: Run):
        self._wanted = wanted and run_folder.writes
        self._folder = run_folder.folder
        self._begun = time.perf_counter()
        self._spent, self._expected = 0.0, FIRST

    def update(self) -> None:
        """After new rows of metrics."""
        elapsed = time.perf_counter() - self._begun
        if self._wanted and self._spent + self._expected <= SHARE * elapsed:
            self._write(f"{self._folder.name}, going on", RELOAD)

    def finish(self) -> None:
        """After the last row."""
        if self._wanted:
            self._write(self._folder.name, 0)

    def _write(self, title: str, reload_seconds: int) -> None:
        page = self._folder / "report.html"
        begun = time.perf_counter()
        with optional(str(page)):
            section = _report_run.section([RunFolder.read(self._folder)])
            _report_write.write(page, title, [section], None, reload_seconds)
        self._expected = time.perf_counter() - begun
        self._spent += self._expected
