"""Pictures, tables and curves beside the result: none of them ends a run."""

import os
import shutil
import sys

import pytest
from conftest import rows_of
from finetuning import PLAIN, run

from multicrop.commands import _evaluation
from multicrop.engine.optional import optional


def test_an_error_becomes_one_line(capsys):
    with optional("picture"):
        raise ValueError("\nfirst\nsecond")
    with pytest.raises(KeyboardInterrupt), optional("picture"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ("warning: no picture: ValueError: first; all else goes on\n")


@pytest.mark.parametrize("part", ["draw_confusion", "Confusion.to_dict"])
def test_a_confusion_that_fails_loses_nothing_else(colours, tmp_path, monkeypatch, capsys, part):
    def broken(*_arguments):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(f"{_evaluation.__name__}.{part}", broken)
    result = run(colours, tmp_path, epochs=1, **PLAIN)
    assert (
        result["status"] == "finished" and result["test_top1"] == rows_of(tmp_path)[-1]["test_top1"]
    )
    said = capsys.readouterr().err
    assert said.count("RuntimeError: no fonts here; all else goes on") == 1
    files = {"confusion.json", "confusion.png", "best.pt", "checkpoint.pt"}
    assert len(files & set(os.listdir(tmp_path))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="this file system has UTF-8 names only")
def test_class_folders_may_have_any_name(colours, tmp_path):
    """Bytes that are no UTF-8: file systems of cameras and old archives have them."""
    images = tmp_path / "images"
    shutil.copytree(colours, images)
    for split in ("train", "test"):
        (images / split / "red").rename(images / split / os.fsdecode(b"lat\xe9"))
    result = run(images, tmp_path / "run", epochs=1, **PLAIN)
    assert result["status"] == "finished" and (tmp_path / "run" / "confusion.png").exists()
    assert run(images, tmp_path / "run", eval=True)["test_loss"] == result["test_loss"]
