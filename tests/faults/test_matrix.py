"""The table of docs/reliability.md: a row for each fault that is tried, with the counts of the last full run."""

import ast
import json

import matrix
import pytest


@pytest.mark.parametrize("test", sorted({test for tests in matrix.ROWS.values() for test in tests}))
def test_the_tests_of_a_row_are_there(test):
    file, _, name = test.partition("::")
    tree = ast.parse((matrix.TESTS / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in names if name else any(each.startswith("test_") for each in names)


def test_the_table_has_the_counts_of_each_row():
    rows, text = json.loads(matrix.RESULTS.read_text())["rows"], matrix.DOCS.read_text()
    assert list(rows) == list(matrix.ROWS)
    assert all(f"\n| {what} |" in text for what in rows)
    assert matrix.filled(text, rows) == text, "python tests/faults/matrix.py --docs"
    for what, row in rows.items():
        assert row["tests"] == matrix.ROWS[what]
        assert row["tries"] > 0 and row["lost"] == row["silent"] == 0, what


def test_tries_are_counted(pytester_folder):
    """Cases, and what a test records; what fails is lost, or silent where the test says so."""
    code, tally = pytester_folder
    row = matrix.row_of(["test_x.py"], tally)
    assert code == 1
    counts = {name: row[name] for name in ("tries", "survived", "lost", "silent")}
    assert counts == {"tries": 3 + 7 + 10, "survived": 2 + 7 + 6, "lost": 1, "silent": 4}
    assert matrix.row_of(["test_x.py::test_several"], tally)["kills"] == 7


CASES = """
import pytest

@pytest.mark.parametrize("x", [1, 2, 3])
def test_cases(x):
    assert x < 3

def test_several(record_property):
    record_property("tries", 7)
    record_property("kills", 7)

def test_silent(record_property):
    record_property("tries", 10)
    record_property("silent", 4)
    assert False

@pytest.mark.skip
def test_skipped():
    pass
"""


@pytest.fixture
def pytester_folder(tmp_path):
    """The exit code and the tally of a run of pytest over these cases."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tally = matrix.Tally()
    words = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path / "tests")]
    return pytest.main(words, plugins=[tally]), tally
