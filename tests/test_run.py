"""engine/run.py: what a run's folder holds, what stops a resume, and what a full disk leaves behind."""

import builtins
import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from multicrop.engine import checkpoint, ranks
from multicrop.engine.metadata import Metadata
from multicrop.engine.run import Run, read_metrics, verify_metrics

RECIPE = {"lr": 0.5, "scale": [0.2, 0.4], "log_freq": 1}
METADATA = Metadata("ssl", 3, identity={"global_batch": 4, "images": 24})


class Networks:
    def state(self) -> dict:
        return {"weight": self.weight}

    def load_state(self, state: dict) -> None:
        self.weight = state["weight"]


def run_in(folder, **changes) -> Run:
    return Run(folder, RECIPE | changes, operational=("log_freq",))


def begun(folder, step: int = 3) -> Run:
    """A run that has saved at a step and logged two rows more."""
    run = run_in(folder)
    run.open(0, {})
    for row in range(1, step + 3):
        run.log(row, loss=float(row))
    run.save(METADATA.at(step, 1.0), {"weight": torch.ones(2)})
    run.close()
    return run


def steps(folder) -> list[int]:
    return [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_resumed_run_goes_on_from_its_step_and_drops_later_rows(tmp_path):
    begun(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "lo')  # killed while writing
    run, networks = run_in(tmp_path, log_freq=7), Networks()
    identity = {"global_batch": 4, "images": 24, "steps_per_epoch": 6}
    assert run.resume(networks, identity) == 3
    assert torch.equal(networks.weight, torch.ones(2))
    run.open(3, {})
    assert steps(tmp_path) == [1, 2, 3] and [row["loss"] for row in run.rows()] == [1, 2, 3]
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {
        "lr": 0.5,
        "scale": [0.2, 0.4],
        "log_freq": 7,
    }
    run.close()


@pytest.mark.parametrize(
    "bad",
    [
        b'{"step": 2, "lo\n',
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"step": NaN}\n',
        b'{"step": 2, "loss": 3.0}\n',
    ],
)
def test_damaged_lines_are_set_aside_and_lost_rows_said(tmp_path, capsys, bad):
    begun(tmp_path)
    first, _, third, *_ = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(first + bad + third)
    run = run_in(tmp_path)
    assert run.resume(Networks(), {"global_batch": 4}) == 3
    run.open(3, {})
    run.close()
    assert steps(tmp_path) == [1, 3]
    said = capsys.readouterr().err
    assert "1 damaged lines, set aside in metrics_damaged.txt" in said and "are lost" not in said
    assert len((tmp_path / "metrics_damaged.txt").read_text().splitlines()) == 1


def test_no_flipped_bit_of_a_row_is_silent(tmp_path, record_property):
    begun(tmp_path)
    path = tmp_path / "metrics.jsonl"
    content, whole = path.read_bytes(), read_metrics(tmp_path)
    assert verify_metrics(path) == "the CRC-32 of each row"
    second = content.index(b"\n")
    bits = range(8 * second, 8 * content.index(b"\n", second + 1) + 8)  # and of both ends
    record_property("tries", len(bits))
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"metrics.jsonl is damaged in lines? \d"):
            verify_metrics(path)
        assert all(row in whole for row in read_metrics(tmp_path))


def test_rows_of_versions_without_checksums_are_kept_and_get_some(tmp_path):
    begun(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in read_metrics(tmp_path)))
    assert verify_metrics(path) is None
    run = run_in(tmp_path)
    assert run.resume(Networks(), {"global_batch": 4}) == 3
    run.open(3, {})
    run.close()
    assert steps(tmp_path) == [1, 2, 3] and verify_metrics(path)


def test_rows_that_are_missing_at_the_end_are_said(tmp_path, capsys):
    begun(tmp_path)
    first, *_ = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(first)
    run = run_in(tmp_path)
    run.resume(Networks(), {"global_batch": 4})
    run.open(3, {})
    run.close()
    assert "rows between steps 1 and 3 are lost" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    begun(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    run = run_in(tmp_path)
    state = {"student": {"weight": torch.tensor([1.0, float("nan")])}, "optimizer": {"step": 3}}
    for save in (run.save, lambda *given: run.keep(*given, "kept.pt")):
        with pytest.raises(FloatingPointError, match=r"not finite after step 4: not saved.*--lr"):
            save(replace(METADATA, step=4), state)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not (tmp_path / "kept.pt").exists()


def test_a_run_from_step_0_keeps_no_row(tmp_path):
    """Of a run that ended before its first checkpoint: it may have had another recipe."""
    for loss in (1.0, 2.0):
        run = run_in(tmp_path)
        run.open(0, {})
        run.log(0, loss=loss)
        run.close()
    assert [row["loss"] for row in run.rows()] == [2.0]
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_what_differs_from_the_defaults_is_said(tmp_path, capsys):
    for changed in ({"scale": [0.1, 0.3], "log_freq": 7}, {}):
        run = run_in(tmp_path, **changed)
        run.open(0, changed)
        run.close()
    first, second = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("recipe: ")
    )
    assert first == f"recipe: scale 0.1 0.3, log_freq 7; all of it in {tmp_path}/recipe.yaml"
    assert "every flag has its default" in second


def test_a_run_names_no_checkpoint_before_its_first(tmp_path):
    run = run_in(tmp_path)
    assert run.saved is None
    run.save(METADATA.at(1, 0.5), {"weight": torch.ones(2)})
    assert run.saved == str(tmp_path / "checkpoint.pt")


def test_a_new_folder_starts_at_step_0(tmp_path):
    assert run_in(tmp_path / "a" / "b").resume(Networks(), {"global_batch": 4}) == 0


@pytest.mark.parametrize(
    ("changed", "batch", "images", "expected"),
    [
        ({"lr": 1.0}, 4, 24, r"lr 0\.5 \(now 1\.0\)"),
        ({}, 8, 24, r"a global batch of 4 \(now 8\)"),
        ({}, 4, 30, r"a number of training images of 24 \(now 30\)"),
    ],
)
def test_a_run_that_would_go_on_differently_is_refused(tmp_path, changed, batch, images, expected):
    begun(tmp_path)
    with pytest.raises(
        ValueError,
        match="choose another --output_dir, or give its values to resume it: " + expected,
    ):
        identity = {"global_batch": batch, "images": images}
        run_in(tmp_path, **changed).resume(Networks(), identity)


@pytest.mark.parametrize(
    ("here", "there", "taken"), [(3, 3, 3), (3, 7, 7), (7, 3, 7), (None, 3, 3), (3, None, 3)]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_whose_disks_differ_go_on_from_the_newest(
    tmp_path, monkeypatch, capsys, rank, here, there, taken
):
    """Rank 0 sees the state of step `here`, rank 1 that of step `there`; either as the test's own process."""
    folders = []
    for name, step in enumerate((here, there)):
        folders.append(tmp_path / str(name))
        folders[-1].mkdir()
        if step:
            begun(folders[-1], step)
    monkeypatch.setattr(ranks, "rank", lambda: rank)
    found, sent = checkpoint.newest(folders[1 - rank]), []

    def gathered(own):
        other = found and (found[0].metadata.step, checkpoint.fingerprint(found[1]))
        return [own, other] if rank == 0 else [other, own]

    def broadcast(make, source):
        sent.append(source)
        return make() if source == rank else found

    monkeypatch.setattr(ranks, "gather_objects", gathered)
    monkeypatch.setattr(ranks, "broadcast_object", broadcast)
    assert run_in(folders[rank]).resume(Networks(), {"global_batch": 4}) == taken
    source = 0 if here == taken else 1
    assert sent == ([] if here == there else [source])
    if rank == 0 and source == 1:
        assert f"process 1 sees a checkpoint of step {there}" in capsys.readouterr().err


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_logging_names_the_file(tmp_path, monkeypatch):
    run = run_in(tmp_path)
    run.open(0, {})
    opened = builtins.open
    monkeypatch.setattr(
        builtins,
        "open",
        lambda file, *a, **k: full() if Path(file).parent == tmp_path else opened(file),
    )
    with pytest.raises(
        OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; what was saved"
    ):
        run.log(1, loss=1.0)
    run.close()


def test_broken_curves_are_said_once_and_the_rows_go_on(tmp_path, monkeypatch, capsys):
    run = run_in(tmp_path)
    run.open(0, {})
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    for step in (1, 2):
        run.log(step, loss=1.0)
    run.close()
    assert steps(tmp_path) == [1, 2]
    said = capsys.readouterr().err
    assert said.count("warning: no TensorBoard curves: OSError: [Errno 28] No space left") == 1


def test_a_tensorboard_that_cannot_be_imported_ends_no_run(tmp_path, monkeypatch, capsys):
    """As with a TensorFlow that is installed and broken."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    begun(tmp_path)
    assert steps(tmp_path) == [1, 2, 3, 4, 5] and (tmp_path / "checkpoint.pt").exists()
    assert capsys.readouterr().err.count("warning: no TensorBoard curves: ModuleNotFoundErr") == 1


def test_a_full_disk_at_a_resume_loses_no_metrics(tmp_path, monkeypatch):
    begun(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text(), (tmp_path / "recipe.yaml").read_text()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .*recipe\.yaml: No space left on device"
    ) as error:
        run_in(tmp_path, log_freq=2).open(3, {})
    assert "\n" not in str(error.value)
    assert (
        (tmp_path / "metrics.jsonl").read_text(),
        (tmp_path / "recipe.yaml").read_text(),
    ) == before
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="choose another --output_dir"):
            run_in(tmp_path)
    finally:
        tmp_path.chmod(0o700)
