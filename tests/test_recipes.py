"""Every recipe file parses with the script that its header names, and its header says what to expect."""

import re

import pytest
from conftest import ROOT

import finetune
import train_ssl
from multicrop import cli

SCRIPTS = {"train_ssl.py": train_ssl.Recipe, "finetune.py": finetune.Recipe}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_parse_and_state_command_and_result(path):
    text = path.read_text()
    command = re.search(r"# Command: .*?(\w+\.py) .*--recipe (\S+)", text)
    assert command and command[2] == f"recipes/{path.name}"
    assert re.search(r"# (Expected|Published|Ours): \S", text)
    start = ["--scratch"] if command[1] == "finetune.py" else []
    cli.parse(SCRIPTS[command[1]], ["--recipe", str(path), *start])
