"""Every fault of docs/reliability.md tried and counted: the tries, how many survived, lost something, or were silent.

    python tests/faults/matrix.py                       # all rows, in full; `make faults` does this
    python tests/faults/matrix.py faults/test_kills.py  # the rows that have this test; the others stay as they were
    python tests/faults/matrix.py --docs                # puts the counts into the table of docs/reliability.md

A try survives where its test passes: the run ends as if nothing had been, or one line says what is wrong and nothing
that was saved is lost. MULTICROP_FAULTS is how often each file is damaged and how many sizes of a full disk are tried,
MULTICROP_KILL_SECONDS how long ranks are killed. The counts go to benchmarks/results/faults_cpu.json.
"""

import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
RESULTS = TESTS.parent / "benchmarks" / "results" / "faults_cpu.json"
DOCS = TESTS.parent / "docs" / "reliability.md"
COUNTED = ("tries", "survived", "lost", "silent", "seconds")  # the last columns of the table
IN_FULL = {"MULTICROP_FAULTS": "100", "MULTICROP_KILL_SECONDS": "600"}
# What happens, as the first column of the table says it: the tests that try it
ROWS = {
    "every file of a run folder cut, emptied, flipped by a bit, or deleted, then the same command": [
        "faults/test_damage.py",
        "test_finetune.py::test_without_the_selected_weights_a_run_says_so_and_goes_on",
        "test_run.py::test_damaged_lines_are_set_aside_and_lost_rows_said",
    ],
    "a bit flipped in any file that the program writes, then `check --verify`": [
        "faults/test_verify.py::test_every_flipped_bit_is_found",
    ],
    "the disk fills up, at any size of any file": ["faults/test_full_disk.py"],
    "ranks of two are killed at random under `launch/torchrun.sh`": ["faults/test_kills.py"],
    "a signal to a rank whose peer is stopped inside a step": [
        "faults/test_stopped_peer.py::test_after_a_time_without_a_step_it_ends",
        "faults/test_stopped_peer.py::test_a_second_signal_ends_it_at_once",
    ],
    "a bit of a checkpoint flipped, each byte of its zip directory in turn": [
        "test_checkpoint.py::test_no_flipped_bit_is_silent",
    ],
    "newest checkpoint cut or damaged, then killed between the renames of the next save": [
        "test_checkpoint.py::test_a_cut_newest_checkpoint_is_reported_and_the_one_before_used",
        "test_checkpoint.py::test_a_damaged_newest_does_not_become_the_reserve",
        "test_checkpoint.py::test_a_file_that_was_saved_whole_but_not_named_is_taken",
        "test_checkpoint.py::test_half_a_file_is_never_taken_nor_said",
        "test_checkpoint.py::test_a_crash_between_the_two_renames_loses_nothing",
    ],
    "a checkpoint that was to be kept for good could not be written": [
        "test_train_ssl.py::test_a_checkpoint_that_could_not_be_kept_is_kept_by_the_resumed_run",
    ],
    "nodes with disks of their own, of which one is behind": [
        "test_run.py::test_ranks_whose_disks_differ_go_on_from_the_newest",
    ],
    "two runs started in one folder": ["test_lock.py"],
    "a signal while a run closes down": [
        "test_outputs.py::test_a_signal_while_it_closes_down_changes_no_exit_code",
    ],
    "`2>&1 \\| head`, a full log disk, SIGHUP": [
        "test_outputs.py::test_a_run_whose_output_is_gone_is_finished",
        "test_outputs.py::test_under_nohup_a_lost_terminal_stops_nothing",
        "test_train_ssl.py::test_a_signal_before_the_first_step_stops_there",
    ],
    "the update of a step makes weights NaN": [
        "test_run.py::test_weights_that_are_not_finite_are_not_saved",
        "test_finetune.py::test_weights_that_are_not_finite_after_the_last_step_are_a_failure",
        "test_train_ssl.py::test_a_gradient_that_is_not_finite_reaches_no_checkpoint",
    ],
    "stopped between two rows of metrics": [
        "test_finetune.py::test_rows_of_a_resumed_run_are_those_of_an_undisturbed_one",
    ],
    "a bit flipped in a row of metrics": ["test_run.py::test_no_flipped_bit_of_a_row_is_silent"],
    "a signal or kill while images are decoded": [
        "test_cache.py::test_a_decoding_that_a_signal_ended_goes_on",
        "test_train_ssl.py::test_a_signal_ends_a_long_decoding_between_its_parts",
    ],
    "a bit flipped in the image cache, stored maps, or a packed LMDB file, then used": [
        "test_cache.py::test_a_flipped_bit_is_noticed_and_mended",
        "test_teacher_maps.py::test_a_flipped_bit_of_a_map_is_refused",
        "test_lmdb.py::test_no_flipped_bit_of_a_packed_file_is_silent",
    ],
    "stored maps cut after an interruption": [
        "test_teacher_maps.py::test_maps_that_are_lost_are_not_taken_for_zeros",
    ],
    "one image exchanged among many, then resumed": [
        "test_train_ssl.py::test_one_exchanged_image_among_many_does_not_resume",
        "test_image_record.py::test_an_exchanged_image_of_the_same_name_size_and_time_is_noticed_when_read_again",
        "test_image_record.py::test_an_image_that_was_not_read_before_is_said_where_its_time_tells",
        "test_image_record.py::test_copied_images_have_other_times_and_the_run_goes_on",
        "test_image_record.py::test_put_back_it_goes_on_bit_equal",
    ],
    "the record of streamed images cut, emptied, flipped by a bit, or deleted": [
        "test_image_record.py::test_what_is_lost_of_the_record_is_said",
    ],
    "`pack` killed, between splits or within one": [
        "test_lmdb.py::test_an_interrupted_command_goes_on_and_other_images_are_never_overwritten",
        "test_lmdb.py::test_what_a_killed_process_left_is_removed",
    ],
    "a member of a zip file, or a checkpoint, that unpacks to gigabytes": [
        "test_archives.py::test_a_member_that_unpacks_to_too_much_is_left_out_until_it_is_allowed",
        "test_checkpoint.py::test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_read",
    ],
    "64 open files and 40 decoding processes": [
        "test_streaming.py::test_processes_fit_the_limit_of_open_files",
    ],
    "a rank is lost, or does not answer": [
        "test_cli.py::test_a_rank_that_has_lost_another_says_so_in_one_line",
        "faults/test_lost_rank.py::test_a_killed_rank_is_named",
        "faults/test_lost_rank.py::test_a_rank_that_fails_is_named_at_once",
        "faults/test_lost_rank.py::test_a_rank_that_is_stopped_is_given_up_and_named",
        "faults/test_lost_rank.py::test_a_rank_that_lives_and_does_not_answer_is_named_with_its_step",
    ],
    "a rank that works for all the others is stopped, or takes longer than any limit": [
        "faults/test_lost_rank.py::test_who_works_for_all_is_waited_for_as_long_as_it_lives",
        "faults/test_lost_rank.py::test_who_works_for_all_and_is_heard_of_no_more_is_given_up",
    ],
    "fewer ranks than before": [
        "test_train_ssl.py::test_with_smaller_parts_a_run_keeps_its_global_batch",
    ],
    "one of two nodes is killed, `NNODES=1:2 launch/torchrun.sh`": ["faults/test_elastic.py"],
}  # fmt: skip


@dataclass
class Count:
    """Of the tries of a test. Where they end early, as they do at the first that fails, those are counted that were."""

    tries: int = 0
    failed: int = 0
    silent: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


class Tally:
    """A plugin of pytest that counts the tries of each test function: its cases, or what it records as `tries`."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}

    def pytest_runtest_logreport(self, report) -> None:
        count = self.counts.setdefault(report.nodeid.partition("[")[0], Count())
        count.seconds += report.duration
        if report.skipped or (report.when != "call" and report.passed):
            return
        recorded = dict(report.user_properties) if report.when == "call" else {}
        count.tries += recorded.pop("tries", 1)
        if report.failed:
            count.silent += recorded.get("silent", 0)
            count.failed += recorded.pop("silent", 1)
        count.figures |= recorded

    def of(self, test: str) -> list[Count]:
        """Of a test function, or of all of a file's."""
        node = f"tests/{test}"
        whole_file = "::" not in test
        return [
            count
            for name, count in self.counts.items()
            if name == node or (whole_file and name.startswith(f"{node}::"))
        ]


def row_of(tests: list[str], tally: Tally) -> dict:
    counts = [count for test in tests for count in tally.of(test)]
    tries, failed = sum(count.tries for count in counts), sum(count.failed for count in counts)
    silent = sum(count.silent for count in counts)
    figures = {name: value for count in counts for name, value in count.figures.items()}
    return {
        "tries": tries,
        "survived": tries - failed,
        "lost": failed - silent,
        "silent": silent,
        "seconds": round(sum(count.seconds for count in counts), 1),
        **figures,
        "tests": tests,
    }


def filled(text: str, rows: dict[str, dict]) -> str:
    """The documentation with the counts of these rows in its table."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        for what, row in rows.items():
            if line.startswith(f"| {what} |"):
                kept = re.split(r" (?<!\\)\|", line)[:3]
                cells = [f"{row[name]:,.0f}" for name in COUNTED]
                lines[number] = " |".join([*kept, *(f" {cell}" for cell in cells), ""])
    return "\n".join(lines) + "\n"


def main(wanted: list[str]) -> int:
    if wanted == ["--docs"]:
        DOCS.write_text(filled(DOCS.read_text(), json.loads(RESULTS.read_text())["rows"]))
        return 0
    os.environ.update({name: os.environ.get(name, value) for name, value in IN_FULL.items()})
    import pytest

    chosen = {
        what: tests
        for what, tests in ROWS.items()
        if not wanted or any(name in test for test in tests for name in wanted)
    }
    tally, begun = Tally(), time.time()
    nodes = [str(TESTS / test) for tests in chosen.values() for test in tests]
    code = pytest.main(["-q", "--rootdir", str(TESTS.parent), *nodes], plugins=[tally])
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    new = {what: row_of(tests, tally) for what, tests in chosen.items()}
    counted = {what: results["rows"].get(what) for what in ROWS} | new
    settings = {name: os.environ[name] for name in IN_FULL}
    for row in new.values():
        row["settings"] = settings
    results = {
        "what": "tests/faults/matrix.py: every fault of docs/reliability.md",
        "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
        "cores": os.cpu_count(),
        "rows": {what: row for what, row in counted.items() if row},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for what, row in new.items():
        print(f"{what}: {', '.join(f'{row[name]} {name}' for name in COUNTED)}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
