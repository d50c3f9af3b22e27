"""benchmarks/gpu_report goes on where it stopped, keeps each row at once, and says what is missing or has failed."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import (
    _gpu_kernels,
    _gpu_nccl,
    _gpu_needs,
    _gpu_parity,
    _gpu_parts,
    _gpu_report,
    _gpu_resume,
    _gpu_rows,
    _gpu_table,
    _gpu_tests,
    _limited,
    gpu_report,
    input_pipeline,
    train_step,
)
from benchmarks._gpu_parts import Work
from benchmarks._gpu_report import Recipe, report
from benchmarks._limited import follow
from multicrop import cli
from multicrop.config import finetune, pretrain

CPU = torch.device("cpu")


def python(code: str):
    """A work's command: Python code, which has the rows' names in `rows`."""
    start = "import json, os, signal, sys, time\nrows = sys.argv[1:]\n"
    return lambda rows: ("-c", start + code, *rows)


def each(row: str) -> str:
    """Code that prints each row after what `row` does."""
    return f'for name in rows:\n {row}\n print(json.dumps({{"row": name, "value": len(name)}}), flush=True)'


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of a report whose only part is `sdpa`, of these works; a second is enough for a process."""
    monkeypatch.setattr(_gpu_report, "LEAST", 0.0)

    def of(*works: Work, **values) -> Recipe:
        monkeypatch.setattr(_gpu_report, "works", lambda r, part, device: list(works))
        return Recipe(only=("sdpa",), device="cpu", out=str(tmp_path / "out"), **values)

    return of


def rows(r: Recipe) -> dict:
    return json.loads(Path(f"{r.out}.json").read_text())["parts"]["sdpa"]


def now() -> float:
    return time.monotonic()


def test_rows_are_stored_with_a_table_and_the_next_call_measures_what_is_missing(settings):
    first = settings(Work(("a", "bb"), python(each("pass"))))
    result = report(first, now())
    assert (result["status"], result["rows"], result["left"]) == ("finished", 2, 0)
    stored = rows(first)
    assert [row["value"] for row in stored.values()] == [1, 2]
    second = settings(Work(("a", "bb", "ccc"), python(each("assert rows == ['ccc']"))))
    assert report(second, now())["failed"] == []
    assert rows(second)["a"] == stored["a"] and rows(second)["ccc"]["value"] == 3
    assert "| ccc |" in Path(f"{second.out}.md").read_text()


def test_a_row_that_kills_its_process_is_recorded_and_the_others_are_measured(settings):
    code = each("if name == 'b': print('no such kernel', file=sys.stderr); os._exit(3)")
    r = settings(Work(("a", "b", "c"), python(code)))
    assert report(r, now())["failed"] == ["sdpa: b"]
    assert rows(r)["b"]["failed"] == "exit code 3: no such kernel"
    assert rows(r)["a"]["value"] == rows(r)["c"]["value"] == 1
    assert "**failed**: exit code 3" in Path(f"{r.out}.md").read_text()
    mended = settings(Work(("a", "b", "c"), python(each("pass"))), again="failed")
    assert report(mended, now())["failed"] == [] and rows(mended)["b"]["value"] == 1


def test_a_row_that_takes_too_long_is_recorded_and_the_others_are_measured(settings):
    code = each("if name == 'b': time.sleep(60)")
    r = settings(Work(("b", "a"), python(code), seconds=3))
    began = now()
    report(r, began)
    assert rows(r)["b"]["unmeasured"] == "more than 3 s" and rows(r)["a"]["value"] == 1
    assert now() - began < 30


def test_a_row_that_is_too_long_for_a_short_call_is_left_for_a_longer_one(settings, monkeypatch):
    """Two seconds of it, here; the others are measured, and nothing is stored of it."""
    monkeypatch.setattr(_gpu_report, "LONGEST", 2 / 60)
    code = each("if name == 'b': time.sleep(60)")
    r = settings(Work(("b", "a"), python(code), seconds=300), minutes=1)
    assert (report(r, now())["status"], list(rows(r))) == ("interrupted", ["a"])


def test_after_an_error_of_the_card_the_others_have_a_process_of_their_own(settings):
    code = each("assert name != 'c' or rows == ['c']") + "\n if name == 'a': sys.exit(97)"
    r = settings(Work(("a", "c"), python(code)))
    assert report(r, now())["failed"] == [] and list(rows(r)) == ["a", "c"]


def test_a_stage_whose_first_one_failed_waits(settings):
    first = Work(("one",), python("sys.exit('no memory')"), None, goes_on=True)
    r = settings(first, Work(("two",), python(each("pass")), after="one"))
    result = report(r, now())
    assert (result["failed"], result["left"], list(rows(r))) == (["sdpa: one"], 1, ["one"])


def test_a_row_that_the_end_of_the_call_cuts_is_left_for_the_next(settings):
    code = each("if name == 'b': time.sleep(60)")
    r = settings(Work(("a", "b"), python(code)), minutes=1)
    result = report(r, now() - 60 + 3 + 4)  # the grace, and four seconds
    assert (result["status"], result["left"]) == ("interrupted", 1)
    assert list(rows(r)) == ["a"]


def test_a_run_that_is_stopped_saves_and_goes_on_in_the_next_call(settings, monkeypatch):
    """A command of ours ends with 75 after SIGTERM and prints how far it is."""
    monkeypatch.setattr(_gpu_report, "GRACE", 5.0)
    stopped = (
        "def stop(*_):\n"
        ' print(json.dumps({"status": "interrupted", "step": 3, "steps": 9, "seconds": 2.0}), flush=True)\n'
        " os._exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "time.sleep(60)"
    )
    after = Work(("two",), python(each("pass")), after="one")
    r = settings(Work(("one",), python(stopped), None, goes_on=True), after, minutes=1)
    result = report(r, now() - 60 + 5 + 4)
    assert (result["status"], result["left"]) == ("interrupted", 2)
    assert rows(r)["one"]["status"] == "interrupted" and rows(r)["one"]["step"] == 3
    ends = 'print(json.dumps({"status": "finished", "step": 9, "steps": 9, "seconds": 4.0}))'
    r = settings(Work(("one",), python(ends), None, goes_on=True), after)
    assert report(r, now())["status"] == "finished"
    assert rows(r)["one"]["seconds_of_all_calls"] == 6 and rows(r)["one"]["calls"] == 2
    assert rows(r)["two"]["value"] == 3


def test_rows_of_another_machine_or_of_a_rehearsal_are_not_mixed(settings, monkeypatch):
    work = Work(("a",), python(each("pass")))
    report(settings(work), now())
    with pytest.raises(ValueError, match="holds no rehearsal: give another --out"):
        report(settings(work, tiny=True), now())
    monkeypatch.setattr(_gpu_report, "machine_of", lambda device: {"device": "another"})
    with pytest.raises(ValueError, match=r"was measured on .* not on .*another"):
        report(settings(work), now())


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[]", "is no GPU report")])
def test_a_file_that_is_no_report_is_kept(settings, text, said):
    r = settings()
    path = Path(f"{r.out}.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        report(r, now())
    assert path.read_text() == text


def test_a_second_call_for_the_same_file_is_refused_and_another_file_is_not(settings, tmp_path):
    r = settings(Work(("a",), python(each("pass"))))
    code = (
        "import sys, time; from pathlib import Path; from multicrop.engine import lock; "
        "lock.hold(Path(sys.argv[1]), flag='--out', file='out.json'); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_limited.ROOT) as other:
        assert other.stdout.readline() == b"\n"
        with pytest.raises(
            ValueError, match=f"out.json is in use by process {other.pid} .*another --out$"
        ):
            report(r, time.monotonic())
        other_file = dataclasses.replace(r, out=str(tmp_path / "other"))
        assert report(other_file, time.monotonic())["status"] == "finished"
        other.kill()
    assert report(r, time.monotonic())["status"] == "finished"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.json",
        "other.md",
        "out.json",
        "out.md",
    ]


def test_what_a_late_process_has_started_ends_with_it(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(5); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    code += "print(1, flush=True)\ntime.sleep(60)"
    printed: list[str] = []
    ended = follow(("-c", code), printed.append, line_seconds=3, seconds=30, grace=1)
    assert ended.why == "line" and printed == ["1\n"]
    time.sleep(3)
    assert not mark.exists()


def test_missing_packages_are_named_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(_gpu_needs, "_is_installed", lambda name: name not in ("tyro", "faiss-cpu"))
    with pytest.raises(SystemExit) as stop:
        gpu_report.main()
    first, second = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert first == "error: not installed, and nothing runs without: tyro (pip install 'tyro>=1.0')"
    assert second.startswith("not installed: faiss-cpu (pip install 'faiss-cpu')")


def test_a_part_without_its_package_or_its_images_is_left_out_with_the_reason(
    settings, monkeypatch, tmp_path
):
    r = Recipe(
        only=("tests", "recipe"), device="cpu", datapath=str(tmp_path), out=str(tmp_path / "out")
    )
    monkeypatch.setattr(_gpu_needs, "_is_installed", lambda name: name != "pytest")
    left_out = report(r, now())["left_out"]
    assert left_out["tests"] == "pytest is not installed"
    assert "there is no CIFAR-10 in" in left_out["recipe"]


def test_without_a_gpu_one_line_says_so(settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA device; --device cpu --tiny is a rehearsal"):
        report(Recipe(), now())


PROGRAMS = {
    "benchmarks._gpu_kernels": _gpu_rows.Recipe,
    "benchmarks._gpu_nccl": _gpu_nccl.Recipe,
    "benchmarks._gpu_parity": _gpu_rows.Recipe,
    "benchmarks._gpu_resume": _gpu_rows.Recipe,
    "benchmarks._gpu_tests": _gpu_rows.Recipe,
    "benchmarks.input_pipeline": input_pipeline.Recipe,
    "benchmarks.train_step": train_step.Recipe,
    "finetune.py": finetune.Recipe,
    "train_ssl.py": pretrain.Recipe,
}


@pytest.mark.parametrize("part", _gpu_parts.PARTS)
@pytest.mark.parametrize("tiny", [False, True])
def test_every_command_of_a_report_on_four_cards_is_understood(part, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    works = _gpu_parts.works(Recipe(tiny=tiny), part, torch.device("cuda", 0))
    named = [row for work in works for row in work.rows]
    assert named and len(set(named)) == len(named)
    for work in works:
        words = list(work.words(work.rows))
        if "torch.distributed.run" in words:
            words = words[words.index("--nproc-per-node") + 2 :]
        program, *flags = words[1:] if words[0] == "-m" else words
        assert cli.parse(PROGRAMS[program], flags)
    if part == "nccl":
        assert named == ["1 process", "4 processes"]


def test_each_commands_of_resume_are_understood():
    for words in _gpu_resume.ROWS.values():
        program, *flags = words.split()
        assert cli.parse(PROGRAMS[program], flags)


def test_products_and_attention_are_timed():
    assert _gpu_kernels.measure("matrix product, fp32", CPU, True)["tflop_per_second"] > 0
    for row in _gpu_kernels.SHAPES:
        _, tokens, heads, width = _gpu_kernels.shape_of(row)
        assert tokens in (17, 65) and heads * width == 192
    found = _gpu_kernels.measure(_gpu_kernels.SHAPES[-1], CPU, True)
    assert found["ms"][found["fastest"]] == min(ms for ms in found["ms"].values() if ms is not None)
    assert found["ms"]["cudnn"] is None  # it is not for a CPU


def test_parity_sees_a_network_that_differs(monkeypatch):
    found = _gpu_parity.measure("resnet8", CPU, True)
    assert found["fp32_features"] == found["fp32_gradients"] == 0 and found["fp32_ok"]
    assert 0 < found["bf16_features"] < 0.1
    real = _gpu_parity.features_and_gradients
    calls = []

    def wrong(model, images, dtype=None):
        calls.append(dtype)
        features, gradients = real(model, images, dtype)
        return features, gradients * (1 if len(calls) == 1 else 1.01)

    monkeypatch.setattr(_gpu_parity, "features_and_gradients", wrong)
    found = _gpu_parity.measure("resnet8", CPU, True)
    assert found["fp32_gradients"] == pytest.approx(0.01, rel=1e-3) and not found["fp32_ok"]
    assert "**not in fp32**" in _gpu_table.markdown(content(parity={"resnet8": found}))


def test_numbers_that_are_not_finite_are_infinitely_different():
    assert _gpu_parity.difference(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


def test_every_family_is_compared_with_the_cpu():
    names = _gpu_parity.names()
    assert {"vit", "swin", "cait", "cct_7_3x1_32", "resnet56", "dhvt"} <= set(names)
    assert "timm" not in names and len(set(names)) == len(names)


def test_states_are_compared_to_the_last_bit():
    one = {"student": {"w": torch.ones(2), "n": 1}, "optimizer": [{"step": torch.tensor(1.0)}]}
    other = {"student": {"w": torch.ones(2), "n": 1}, "optimizer": [{"step": torch.tensor(2.0)}]}
    names = ["optimizer.0.step", "student.n", "student.w"]
    assert _gpu_resume.compare(one, one) == (names, [])
    assert _gpu_resume.compare(one, other) == (names, ["optimizer.0.step"])
    assert _gpu_resume.compare(one, {"student": one["student"]})[1] == ["optimizer.0.step"]


def test_pytests_record_is_counted(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped message="no GPU"/></testcase>'
        '<testcase name="c"><failure message="assert 1 == 2&#10;more">long</failure></testcase>'
        "</testsuite></testsuites>"
    )
    expected = {"passed": 1, "failed_tests": ["c: assert 1 == 2"], "skipped": 1}
    assert _gpu_tests.counts(path) == expected
    assert "test_device.py" in _gpu_tests.files()


def test_a_row_that_fails_in_its_process_does_not_stop_the_next(capsys):
    def measure(row, device, tiny):
        if row == "a":
            raise RuntimeError("no kernel image\nmore")
        return {"value": 1}

    _gpu_rows.stream(_gpu_rows.Recipe(rows=("a", "b"), device="cpu"), measure)
    a, b = map(json.loads, capsys.readouterr().out.splitlines())
    assert a == {"row": "a", "failed": "RuntimeError: no kernel image"} and b == {
        "row": "b",
        "value": 1,
    }


def content(**parts) -> dict:
    return {"machine": {"device": "a card"}, "rehearsal": False, "parts": parts}


def test_parts_without_rows_are_unmeasured_in_the_table():
    text = _gpu_table.markdown(
        content(recipe={"stage one": {"status": "interrupted", "step": 3, "steps": 9}})
    )
    assert text.count("Unmeasured.") == len(_gpu_parts.PARTS) - 1
    assert "| stage one | interrupted |  | 3 of 9 |" in text
    assert list(_gpu_table.COLUMNS) == list(_gpu_parts.PARTS) == list(_gpu_table.TITLES)


IN_FULL = pytest.mark.skipif(
    "MULTICROP_FULL_SIZE" not in os.environ,
    reason="a minute, of what other tests have too: set MULTICROP_FULL_SIZE=1",
)
IN_FULL_PARTS = ("nccl", "resume")
REHEARSED = [
    pytest.param(part, marks=IN_FULL) if part in IN_FULL_PARTS else part
    for part in _gpu_parts.PARTS
]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """A report of all parts on a CPU: its settings, its result, what is in its file, and its table."""
    folder = tmp_path_factory.mktemp("rehearsal")
    in_full = "MULTICROP_FULL_SIZE" in os.environ
    parts = tuple(part for part in _gpu_parts.PARTS if in_full or part not in IN_FULL_PARTS)
    r = Recipe(only=parts, device="cpu", tiny=True, out=str(folder / "gpu"))
    words = ["-m", "benchmarks.gpu_report", "--device", "cpu", "--tiny", "--compile", "false"]
    words += ["--only", *parts, "--out", r.out, "--runs", str(folder / "runs")]
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTICROP_CACHE", str(folder / "cache"))
        ended = follow(
            words, printed.append, line_seconds=None, seconds=1800 if in_full else 590, grace=5
        )
    assert ended.code == 0, ended.messages
    stored = json.loads(Path(f"{r.out}.json").read_text())
    return r, json.loads(printed[-1]), stored, Path(f"{r.out}.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("part", REHEARSED)
def test_a_rehearsal_on_a_cpu_measures_every_row(part, rehearsal):
    r, _, stored, table = rehearsal
    rows = stored["parts"][part]
    assert list(rows) == [row for work in _gpu_parts.works(r, part, CPU) for row in work.rows]
    assert not any({"failed", "unmeasured"} & row.keys() for row in rows.values())
    assert all(f"| {name} |" in table for name in rows)
    if part == "resume":
        assert all(row["equal"] for row in rows.values())
    if part == "nccl":
        assert [row["processes"] for row in rows.values()] == [1, 2]
        assert all(row["mean_is_right"] for row in rows.values())
    if part == "recipe":
        assert all(row["status"] == "finished" for row in rows.values())


@pytest.mark.slow
def test_a_rehearsal_says_what_it_is_and_that_nothing_is_left(rehearsal):
    r, result, stored, table = rehearsal
    assert (result["failed"], result["left"], result["left_out"]) == ([], 0, {})
    assert result["rows"] == sum(len(rows) for rows in stored["parts"].values())
    assert list(stored["parts"]) == list(r.only)
    assert stored["rehearsal"] and "A rehearsal" in table
