"""engine/starts.py: what a run folder says of its starts, which no run needs."""

import json
import os
import time
from itertools import count

import torch

from multicrop.engine import starts
from multicrop.engine.starts import Start, read_starts


def test_each_start_is_a_row_with_its_end_and_half_a_line_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", count(1000.0).__next__)
    Start(tmp_path, 0)
    with open(tmp_path / "starts.jsonl", "a") as file:
        file.write('{"started": 5, "st')
    Start(tmp_path, 3).end()
    first, second = read_starts(tmp_path)
    assert (first["step"], second["step"]) == (0, 3)
    assert "ended" not in first and second["ended"] > second["started"]


def test_cards_are_named_where_the_run_uses_them(monkeypatch):
    """Asking a card for its name would take memory on it, of a run with --device cpu too."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert starts.machine()["device"] != "H100" and starts.machine()["cards"] == 0
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert starts.machine()["device"] == "H100" and starts.machine()["cards"] == 2


def test_where_it_cannot_be_written_a_run_goes_on(tmp_path, capsys):
    (tmp_path / "starts.jsonl").mkdir()
    Start(tmp_path, 0).end()
    assert "warning: no " in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["starts.jsonl"] and json.dumps(starts.machine())
