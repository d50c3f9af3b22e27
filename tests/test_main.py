"""multicrop NAME ...: what it lists, what it imports before a command runs, and what it says of a wrong name."""

import json
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from multicrop import __main__, registry

COMMANDS = registry.names("commands")


def imported_by(*words: str) -> tuple[set[str], str]:
    """The modules that the command line has imported when it ends, and what it printed."""
    code = (
        "import sys, json\n"
        "from multicrop.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *printed, modules = done.stdout.splitlines()
    return set(json.loads(modules)), "\n".join(printed)


def test_alone_it_lists_every_command_with_one_line(capsys):
    __main__.main([])
    lines = capsys.readouterr().out.splitlines()
    for command in COMMANDS:
        (line,) = (line for line in lines if line.split()[:1] == [command])
        assert len(line.split()) > 3, line
    assert {
        "pretrain",
        "finetune",
        "knn",
        "precompute",
        "check",
        "pack",
        "visualise",
        "advise",
    } <= {*COMMANDS}


def test_the_list_is_in_groups():
    grouped = [name for group in __main__.GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(COMMANDS)
    lines = __main__.usage().splitlines()
    assert lines.index("train") < lines.index("judge") < lines.index("use") < lines.index("tools")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_while_it_imports_says_run_me_again(name):
    """All that a process has done by then can be done again."""
    words = [sys.executable, "-X", "importtime", "-m", "multicrop", "embed", "nowhere", "nothing"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if " torch." in line:  # it has begun
                process.send_signal(getattr(signal, name))
                break
        said = process.stderr.read().splitlines()
    assert process.returncode == 75 and said[-1].startswith("stopped by a signal; the same command")
    assert not any("Traceback" in line for line in said)


def test_the_list_imports_nothing_heavy():
    modules, printed = imported_by("--help")
    assert "pretrain" in printed and not {"torch", "tyro", "numpy", "PIL"} & modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_does_not_import_torch(command):
    modules, printed = imported_by(command, "--help")
    assert printed.startswith(f"usage: multicrop {command} ") and "torch" not in modules


@pytest.mark.parametrize("script", ["train_ssl.py", "finetune.py", "eval_knn.py"])
def test_a_script_says_what_is_wrong_without_torch(script):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--sede", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "| torch" not in done.stderr


def test_an_unknown_name_gets_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["finetun", "--scratch"])
    assert stop.value.code == 2
    assert (
        "error: no command is called 'finetun'; did you mean 'finetune'" in capsys.readouterr().err
    )


def test_a_wrong_flag_is_one_line_without_torch():
    code = "from multicrop.__main__ import main; main(['pretrain', '--lrr', '1'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown flag --lrr; did you mean 'lr'?" in done.stderr
    assert "| torch" not in done.stderr
