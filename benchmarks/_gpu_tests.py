"""Part `tests` of gpu_report: the tests that need a GPU (pytest -m cuda), a row for each file that has some."""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import torch

from benchmarks._gpu_needs import ROOT
from benchmarks._gpu_rows import Recipe, stream
from multicrop import cli


def files() -> tuple[str, ...]:
    """The files with tests that are marked `cuda`."""
    found = sorted((ROOT / "tests").glob("test_*.py"))
    return tuple(path.name for path in found if "pytest.mark.cuda" in path.read_text())


def measure(row: str, device: torch.device, tiny: bool) -> dict:
    """How many passed, failed and were skipped; the names of those that failed with the first line of why."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "junit.xml"
        words = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
        words += [f"tests/{row}", f"--junitxml={out}"]
        ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        if not out.exists():
            said = (ended.stdout + ended.stderr).strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"exit code {ended.returncode}: {said[-1]}")
        return counts(out)


def counts(junit: Path) -> dict:
    """What pytest's record says."""
    cases = list(ElementTree.parse(junit).iter("testcase"))
    failed, skipped = [], 0
    for case in cases:
        problem = next(
            (case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None
        )
        if problem is not None:
            why = (problem.get("message") or "").strip().splitlines() or [""]
            failed.append(f"{case.get('name')}: {why[0]}")
        skipped += case.find("skipped") is not None
    found: dict = {"passed": len(cases) - len(failed) - skipped, "failed_tests": failed}
    return {**found, "skipped": skipped}


if __name__ == "__main__":
    cli.main(Recipe, lambda r: stream(r, measure))
