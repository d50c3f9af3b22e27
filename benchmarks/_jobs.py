"""Jobs of the benchmarks that compare many runs: each in a process of its own, some at a time, with a line of JSON.

What results.jsonl has is not run again, so a comparison that was stopped goes on by the same command.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

Line = dict[str, Any]  # of results.jsonl
Words = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run of a command."""

    name: str
    """Unlike that of every other job."""
    labels: Line
    """What its line says of it, beside the command and what came out."""
    words: Words | Callable[[list[Line]], Words]
    """The command's words after `python`; or what gives them from the lines of the jobs in `needs`."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that come before it."""
    folder: Path | None = None
    """What to remove before the job: where its seconds matter it begins anew, because those of a resumed run are of
    the rest alone."""

    def words_after(self, needed: list[Line]) -> Words:
        """The command's words, given the lines of the jobs that it needs."""
        return self.words(needed) if callable(self.words) else self.words


LineOf = Callable[[Job, Line, list[Line]], Line]  # (job, its result, lines of what it needed)


def command(words: Words) -> str:
    """As a person would type it."""
    return "python " + shlex.join(words)


class Results:
    """A file of JSON lines: one for each finished job, found by its command."""

    def __init__(self, path: Path):
        self.path, self.lock = path, Lock()
        lines = path.read_text().splitlines() if path.exists() else []
        self.found = {line["command"]: line for line in map(json.loads, lines)}

    def add(self, line: Line) -> None:
        """Write a line. Threads may call it at the same time."""
        with self.lock:
            self.found[line["command"]] = line
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def run_all(
    jobs: Sequence[Job],
    results: Results,
    *,
    streams: int,
    threads: int,
    line_of: LineOf = lambda job, result, needed: {"result": result},
) -> tuple[list[Line], dict[str, str]]:
    """Run jobs, `streams` at a time and each with so many threads.

    jobs: in an order in which each comes after those that it needs, or two streams could wait for each other.
    line_of: what a line says beside the job's labels and command.
    Returns the lines of the jobs that are done, and by name why the others failed.
    """
    futures: dict[str, Future[Line]] = {}
    with ThreadPoolExecutor(streams) as pool:
        try:
            for job in jobs:
                needed = [futures[name] for name in job.needs]
                futures[job.name] = pool.submit(run, job, results, needed, threads, line_of)
            wait(futures.values())
        except KeyboardInterrupt:  # else the pool would still start all that is left
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = {
        name: str(future.exception()) for name, future in futures.items() if future.exception()
    }
    return [future.result() for name, future in futures.items() if name not in failed], failed


def run(
    job: Job, results: Results, needed: list[Future[Line]], threads: int, line_of: LineOf
) -> Line:
    """Do a job once those that it needs are done. RuntimeError with the end of its messages if it fails."""
    lines = [future.result() for future in needed]
    words = job.words_after(lines)
    written = command(words)
    if written in results.found:
        return results.found[written]
    print(written, flush=True)
    if job.folder:
        shutil.rmtree(job.folder, ignore_errors=True)
    result = execute(job.name, words, threads)
    line = {**job.labels, "command": written, **line_of(job, result, lines)}
    results.add(line)
    accuracy = result.get("test_top1", result.get("knn_top1", "done"))
    print(f"{job.name}: {accuracy} in {result.get('seconds')} s", flush=True)
    return line


def execute(name: str, words: Words, threads: int) -> Line:
    """Run a command; the JSON object that it prints last. RuntimeError with the end of its messages if it fails.

    With `cpu_seconds`, what the command measured as `seconds` less the share in which it waited for a processor: on a
    busy machine only they compare. Start-up is in neither.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with TemporaryFile("w+") as output, TemporaryFile("w+") as messages:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words], env=os.environ | environment, stdout=output, stderr=messages
        )
        _, status, usage = os.wait4(process.pid, 0)  # as subprocess does, but with the usage
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        printed, said = (file.seek(0) or file.read() for file in (output, messages))
    if process.returncode:
        end = said.strip()[-400:]
        raise RuntimeError(f"{name} failed with exit code {process.returncode}: {end}")
    result = json.loads(printed.splitlines()[-1])
    busy = (usage.ru_utime + usage.ru_stime) / wall
    return result | {"cpu_seconds": round(result["seconds"] * busy, 1)}


def raise_failed(failed: dict[str, str], jobs: int) -> None:
    """ValueError with the first message if any of so many jobs failed."""
    if failed:
        raise ValueError(f"{len(failed)} of {jobs} runs failed; {next(iter(failed.values()))}")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as tables show them; - where there is nothing."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
