import argparse
import errno
import os
import zipfile

import pytest
import torch

from multicrop.engine import checkpoint, files
from multicrop.engine.metadata import Checkpoint, Metadata


def state(step: int) -> Checkpoint:
    weights = {"a": torch.full((1000,), float(step))}
    return Checkpoint(Metadata("ssl", step), {"weights": weights})


def test_newest_is_the_last_saved_and_the_one_before_is_kept(tmp_path):
    for step in (1, 2):
        checkpoint.save_newest(state(step), tmp_path)
    found, path = checkpoint.newest(tmp_path)
    assert (found.metadata.step, path.name) == (2, "checkpoint.pt")
    assert checkpoint.load(tmp_path / "checkpoint_previous.pt").metadata.step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint_previous.pt"]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_cut_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, keep):
    for step in (1, 2):
        path = checkpoint.save_newest(state(step), tmp_path)
    size = path.stat().st_size
    os.truncate(path, int(keep if keep >= 1 else keep * size))
    said = []
    found, used = checkpoint.newest(tmp_path, said.append)
    assert (found.metadata.step, used.name) == (1, "checkpoint_previous.pt")
    assert (
        len(said) == 1
        and "checkpoint.pt" in said[0]
        and "damaged" in said[0]
        and "\n" not in said[0]
    )


def test_flipped_bytes_are_noticed(tmp_path):
    path = checkpoint.save_newest(state(1), tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("sealed", [True, False])
def test_no_flipped_bit_is_silent(tmp_path, record_property, sealed):
    """Each byte of the archive's directory and ends, each fiftieth before: refused in one line, or harmless."""
    path = tmp_path / "x.pt"
    checkpoint.save(state(1), path)
    if not sealed:  # as older versions and other programs write them
        torch.save(state(1).to_dict(), path)
    content = path.read_bytes()
    directory = content.index(b"PK\1\2")
    silent = []
    places = [*range(0, directory, 50), *range(directory, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = checkpoint.load(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error), error
        else:
            if not found.state["weights"]["a"].equal(state(1).state["weights"]["a"]):
                silent.append(place)
    record_property("tries", len(places))
    record_property("silent", len(silent))
    assert silent == []


def test_a_damaged_newest_does_not_become_the_reserve(tmp_path, capsys):
    for step in (1, 2):
        path = checkpoint.save_newest(state(step), tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    _, used = checkpoint.newest(tmp_path)
    checkpoint.take_up(tmp_path, used)
    assert "kept as checkpoint_damaged.pt" in capsys.readouterr().out
    assert (tmp_path / "checkpoint_damaged.pt").exists()
    checkpoint.save_newest(state(3), tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint_previous.pt").metadata.step == 1


@pytest.mark.parametrize("damaged", [True, False])
def test_a_file_that_was_saved_whole_but_not_named_is_taken(tmp_path, damaged):
    """As a process leaves it that is killed between the renames of a save, where the newest was damaged or moved."""
    for step in (1, 2):
        checkpoint.save_newest(state(step), tmp_path)
    checkpoint.save(state(3), tmp_path / "3.pt")
    os.replace(tmp_path / "3.pt", tmp_path / ".checkpoint.pt.partial")
    if damaged:
        os.truncate(tmp_path / "checkpoint.pt", 100)
    else:
        os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint_previous.pt")
    found, used = checkpoint.newest(tmp_path)
    assert found.metadata.step == 3
    checkpoint.take_up(tmp_path, used)
    assert checkpoint.load(tmp_path / "checkpoint.pt").metadata.step == 3
    assert not (tmp_path / ".checkpoint.pt.partial").exists()


def test_half_a_file_is_never_taken_nor_said(tmp_path):
    checkpoint.save_newest(state(1), tmp_path)
    half = (tmp_path / "checkpoint.pt").read_bytes()[:2000]
    (tmp_path / ".checkpoint.pt.partial").write_bytes(half)
    os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint_previous.pt")
    said = []
    assert checkpoint.newest(tmp_path, said.append)[0].metadata.step == 1 and said == []


def test_other_programs_read_a_file_with_its_hash(tmp_path):
    checkpoint.save(state(1), tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content["weights"]["a"].equal(state(1).state["weights"]["a"])


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"bomb\.pt is no checkpoint: its \d+ bytes would unpack"):
        checkpoint.read(path)


def test_when_none_can_be_read_the_run_does_not_start_over(tmp_path):
    checkpoint.save_newest(state(1), tmp_path)
    os.truncate(tmp_path / "checkpoint.pt", 10)
    with pytest.raises(ValueError, match="move them away"):
        checkpoint.newest(tmp_path, lambda line: None)


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    checkpoint.save_newest(state(1), tmp_path)
    os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint_previous.pt")
    assert checkpoint.newest(tmp_path)[0].metadata.step == 1


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path) is None


def test_a_full_disk_is_one_line_and_leaves_the_saved_file(tmp_path, monkeypatch):
    checkpoint.save_newest(state(1), tmp_path)

    def full(state, file):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError, match=r"cannot write .*/checkpoint\.pt: No space left on device; what was saved"
    ):
        checkpoint.save_newest(state(2), tmp_path)
    assert checkpoint.newest(tmp_path)[0].metadata.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_an_error_of_the_writers_own_is_not_a_failed_write(tmp_path):
    with pytest.raises(KeyError), files.atomic_write(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyError("not about the disk")
    assert list(tmp_path.iterdir()) == []


def test_python_objects_need_trust(tmp_path):
    path = tmp_path / "reference.pth"
    torch.save({"teacher": {"a": torch.ones(2)}, "args": argparse.Namespace(arch="vit")}, path)
    with pytest.raises(ValueError, match="--trust_checkpoint"):
        checkpoint.read(path)
    assert checkpoint.read(path, trust=True)["args"].arch == "vit"


def test_a_file_that_is_no_checkpoint_says_so(tmp_path):
    path = tmp_path / "notes.pt"
    path.write_text("hello, this is a text file and not a checkpoint, whatever its name says " * 10)
    with pytest.raises(ValueError, match=r"notes\.pt") as error:
        checkpoint.read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.pt")


def test_foreign_dictionaries_are_not_ours(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not a multicrop checkpoint"):
        checkpoint.load(tmp_path / "x.pt")
