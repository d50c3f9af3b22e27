"""The loop of gpu_report: which rows are left, the processes that measure them, and the file that keeps them."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from benchmarks import _gpu_needs
from benchmarks._gpu_parts import PARTS, Work, missing_data, works
from benchmarks._gpu_rows import NEXT_PROCESS
from benchmarks._gpu_table import markdown
from benchmarks._limited import ROOT, Ended, follow
from benchmarks._machine import machine
from multicrop.config.checks import AT_LEAST_1, check_values
from multicrop.config.machine import Precision
from multicrop.engine import lock, ranks
from multicrop.engine.files import atomic_write

Part = Literal["tests", "step", "sdpa", "parity", "nccl", "resume", "crops", "recipe"]
WHAT = "GPU report"
GRACE = 25.0  # seconds in which a run that is stopped saves its checkpoint
LONGEST = 0.8  # share of a call that a row may take
LEAST = 20.0  # seconds left below which no process is started
SAME = ("device", "torch", "cuda", "cards")  # of a machine: rows of two are not put into one file


@dataclass(frozen=True)
class Recipe:
    """Measure all that one wants to know of a GPU; call it again until it is done."""

    only: tuple[Part, ...] = ()
    """Parts to measure (none: all, in the order above)."""
    minutes: float = 9.5
    """Longest for this call; the next one goes on."""
    datapath: str = "data"
    """Folder of CIFAR-10, for the part `recipe`."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cuda, or cpu for a rehearsal."""
    tiny: bool = False
    """Small sizes and few rows: a rehearsal, whose numbers mean nothing."""
    precision: Precision = "auto"
    """Of the part `recipe`, whose files say fp32."""
    compile: bool = True
    """torch.compile the networks of the part `recipe`."""
    again: Literal["none", "failed", "all"] = "none"
    """Measure anew what is there of these parts: what failed or took too long, or all. What the part `recipe` has
    trained stays in --runs."""
    runs: str = "runs/gpu_report"
    """Run folders of the part `recipe`."""
    out: str = "benchmarks/results/gpu"
    """OUT.json holds the rows, OUT.md the tables."""

    def __post_init__(self):
        check_values(self, AT_LEAST_1, "minutes")


def report(r: Recipe, began: float) -> dict:
    """Measure what is not there yet until the time is over. began: on the clock of time.monotonic()."""
    device = torch.device(r.device)  # the cards are left to the processes that measure
    if r.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this torch sees no CUDA device; --device cpu --tiny is a rehearsal")
    deadline = began + 60 * r.minutes
    path = report_path(r)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock.hold(path.parent, ranks.log, "--out", path.name)  # two calls would lose each other's rows
    try:
        return _report(r, device, deadline)
    finally:
        lock.release(path.parent, path.name)


def report_path(r: Recipe) -> Path:
    return Path(f"{r.out.removesuffix('.json')}.json")


def _report(r: Recipe, device: torch.device, deadline: float) -> dict:
    file = ReportFile(r, device)
    parts = [part for part in PARTS if part in (r.only or PARTS)]
    lacking = {part: why for part in parts if (why := _lacks(r, part))}
    for part, why in lacking.items():
        ranks.log(f"left out: {part}: {why}")
    file.forget(parts, r.again)
    planned = {part: works(r, part, device) for part in parts if part not in lacking}
    with _sigterm_interrupts():
        try:
            for part, found in planned.items():
                for work in found:
                    measure(part, work, file, deadline, longest=LONGEST * 60 * r.minutes)
        except KeyboardInterrupt:
            ranks.log("stopped; the same command goes on")
    rows = [(part, row) for part, found in planned.items() for work in found for row in work.rows]
    left = [f"{part}: {row}" for part, row in rows if not file.has(part, row)]
    failed = [f"{part}: {row}" for part, row in rows if "failed" in file.row(part, row)]
    if left:
        ranks.log(f"{len(left)} of {len(rows)} rows are left; the same command goes on")
    return {
        "status": "interrupted" if left else "finished",
        "rows": len(rows),
        "left": len(left),
        "failed": failed,
        "left_out": lacking,
        "results": str(file.path),
    }


def _lacks(r: Recipe, part: str) -> str | None:
    """Why a part cannot run here, if so."""
    if part == "tests" and _gpu_needs.TESTS & _gpu_needs.missing_packages().keys():
        return "pytest is not installed"
    return missing_data(r) if part == "recipe" else None


def measure(
    part: str, work: Work, file: "ReportFile", deadline: float, longest: float = float("inf")
) -> None:
    """The rows of one process that are not there yet; again without the first that stops it.

    longest: seconds that a row may take in a call of this length. One that takes more is left for a longer call.
    """
    limit = None if work.seconds is None else min(work.seconds, longest)
    too_long: set[str] = set()
    while True:
        rows = tuple(row for row in work.rows if not (file.has(part, row) or row in too_long))
        grace = GRACE if work.goes_on else 3.0
        left = deadline - time.monotonic() - grace
        if not rows or left < LEAST:
            return
        if work.after and file.row(part, work.after).get("status") != "finished":
            ranks.log(f"{part}: {rows[0]} waits for {work.after}")
            return
        ranks.log(f"{part}: {', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''}")
        ended = follow(
            work.words(rows),
            lambda line: file.take(part, rows[0], line, work.goes_on),  # noqa: B023
            line_seconds=limit,
            seconds=left,
            grace=grace,
        )
        missing = [row for row in rows if not file.has(part, row)]
        if ended.why == "time" or not missing:
            return
        if work.goes_on and ended.code == 75:
            return
        if ended.code == NEXT_PROCESS and len(missing) < len(rows):
            continue
        if ended.why == "line" and limit != work.seconds:
            ranks.log(
                f"  {missing[0]}: more than {limit:.0f} s; a call of more --minutes waits for it"
            )
            too_long.add(missing[0])
            continue
        file.add(part, missing[0], _why_not(ended, work))


def _why_not(ended: Ended, work: Work) -> dict[str, str]:
    if ended.why == "line":
        return {"unmeasured": f"more than {work.seconds:.0f} s"}
    said = ended.messages.splitlines() or ["it said nothing"]
    return {"failed": f"exit code {ended.code}: {said[-1]}"}


class ReportFile:
    """OUT.json and OUT.md, written anew with each row. ValueError where OUT.json is of another machine or size."""

    def __init__(self, r: Recipe, device: torch.device):
        self.path = report_path(r)
        about = {"rehearsal": r.tiny, "machine": machine_of(device)}
        self.content: dict[str, Any] = {"what": WHAT, **about, "parts": {}}
        if self.path.exists():
            self.content = _read(self.path)
            _check_same(self.path, self.content, about)

    def row(self, part: str, row: str) -> dict:
        return self.content["parts"].get(part, {}).get(row, {})

    def has(self, part: str, row: str) -> bool:
        """Whether nothing is left to do for it."""
        found = self.row(part, row)
        return bool(found) and found.get("status") not in ("interrupted", "stopped")

    def take(self, part: str, first: str, line: str, adds_up: bool) -> None:
        """A line that a process printed: where it is a JSON object a row, `first` unless it says which."""
        try:
            found = json.loads(line)
        except ValueError:
            return
        if isinstance(found, dict) and "rows_printed" not in found:  # how a stream of rows ends
            name = found.pop("row", first)
            if adds_up:  # its seconds are those of this call
                before = self.row(part, name)
                for total, value in (
                    ("calls", 1),
                    ("seconds_of_all_calls", found.get("seconds", 0)),
                ):
                    found[total] = round(before.get(total, 0) + value, 1)
            self.add(part, name, found)

    def add(self, part: str, row: str, found: dict) -> None:
        """Store a row."""
        about = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "revision": revision()}
        self.content["parts"].setdefault(part, {})[row] = {**found, **about}
        problem = found.get("failed") or found.get("unmeasured")
        ranks.log(f"  {row}: {problem or 'measured'}")
        self.write()

    def forget(self, parts: list[str], which: str) -> None:
        """Take rows out, so that they are measured again."""
        for part in parts:
            rows = self.content["parts"].get(part, {})
            bad = {row for row, found in rows.items() if {"failed", "unmeasured"} & found.keys()}
            gone = {"none": set(), "failed": bad, "all": set(rows)}[which]
            self.content["parts"][part] = {
                row: found for row, found in rows.items() if row not in gone
            }

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            file.write((json.dumps(self.content, indent=1) + "\n").encode())
        self.path.with_suffix(".md").write_text(markdown(self.content))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}): move it away or give another --out"
        ) from None
    if not isinstance(content, dict) or content.get("what") != WHAT:
        raise ValueError(f"{path} is no GPU report: give another --out")
    return content


def _check_same(path: Path, found: dict, about: dict) -> None:
    machines = [{name: each["machine"].get(name) for name in SAME} for each in (found, about)]
    if found["rehearsal"] != about["rehearsal"]:
        held = "a rehearsal" if found["rehearsal"] else "no rehearsal"
        raise ValueError(f"{path} holds {held}: give another --out")
    if machines[0] != machines[1]:
        raise ValueError(
            f"{path} was measured on {machines[0]}, not on {machines[1]}: give another --out"
        )


def machine_of(device: torch.device) -> dict:
    """What a reader needs to judge the numbers, of the cards, too."""
    found = machine(device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "cards": torch.cuda.device_count(),
            "memory_gb": round(card.total_memory / 1e9, 1),
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


@cache
def revision() -> str | None:
    """The commit that is measured, where this is a checkout; with a + where files other than results differ from it."""

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)

    try:
        commit = git("rev-parse", "--short", "HEAD").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results").returncode
    except OSError:
        return None
    return f"{commit}{'+' if changed else ''}" if commit else None


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the process that measures, too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
