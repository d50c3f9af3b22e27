from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
import tyro

from multicrop import cli
from multicrop.engine import ranks


@dataclass(frozen=True)
class Recipe:
    """A small recipe."""

    rate: float = 0.1
    crops_scale: tuple[float, float] = (0.2, 0.4)
    patch_size: int | None = None
    k: tuple[int, ...] = (10, 20)
    precision: Literal["auto", "fp32"] = "auto"
    compile: bool = False
    aa: bool = True
    bias: bool | None = None

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"--rate {self.rate}: must not be negative")


@dataclass(frozen=True)
class Probe:
    """A recipe with words that are no flags."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    random: bool = False
    k: tuple[int, ...] = (10,)


def parse(*words: str) -> Recipe:
    return cli.parse(Recipe, list(words))


def test_no_flags_are_the_defaults():
    assert parse() == Recipe()


def test_flags_take_dashes_or_underscores():
    assert parse("--crops_scale", "0.2", "1.") == parse("--crops-scale", "0.2", "1.")
    assert parse("--k", "1", "2", "3").k == (1, 2, 3)


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("on", True), ("1", True), ("False", False), ("0", False)]
)
def test_switches_take_the_published_words(word, value):
    assert parse("--aa", word).aa is value
    assert parse("--aa", word, "--rate", "1").aa is value


def test_a_bare_switch_turns_on():
    assert parse("--compile", "--rate", "1").compile is True


def test_a_switch_that_may_be_left_open():
    assert parse("--bias").bias is True and parse("--bias", "false", "--rate", "1").bias is False
    assert parse("--bias", "None").bias is None and parse("--bias=off").bias is False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--random true runs/a", Probe(("runs/a",), True)),
        ("--random runs/a runs/b", Probe(("runs/a", "runs/b"), True)),
        ("runs/a --random", Probe(("runs/a",), True)),
        ("--random --k 1 2", Probe((), True, (1, 2))),
        ("--random false runs/a --k 1", Probe(("runs/a",), False, (1,))),
    ],
)
def test_a_switch_takes_no_word_that_is_not_its_own(words, expected):
    assert cli.parse(Probe, words.split()) == expected


def test_the_flag_of_old_launchers_is_ignored():
    assert (
        parse("--local_rank=1", "--rate", "3")
        == parse("--local-rank=0", "--rate", "3")
        == Recipe(rate=3.0)
    )


def test_a_recipe_file_gives_values_and_the_command_line_wins(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("rate: 3\nk: [1, 2]\npatch_size: null\naa: false\ncrops_scale: [0.1, 0.2]\n")
    assert parse("--recipe", str(file)) == Recipe(
        3.0, (0.1, 0.2), None, (1, 2), "auto", False, False, None
    )
    assert parse("--rate", "9", f"--recipe={file}").rate == 9.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ratee", "1"], "unknown flag --ratee; did you mean 'rate'?"),
        (["--rate", "abc"], "Error parsing --rate: could not convert string to float: 'abc'"),
        (["--rate", "-1"], "--rate -1.0: must not be negative; see --help"),
        (["--precision", "fp8"], "invalid choice 'fp8'"),
        (["--aa", "maybe"], "'maybe' is neither true nor false"),
        (["--aa", "true", "false"], "false follows no flag; --help lists all"),
        (["--crops_scale", "0.1"], "--crops_scale"),
        (["--recipe", "nowhere.yaml"], "recipe nowhere.yaml: there is no such file"),
        (["--recipe"], "--recipe needs the path"),
        (["stray"], "stray follows no flag; --help lists all"),
    ],
)
def test_bad_words_are_one_line(words, expected):
    with pytest.raises(cli.UsageError) as error:
        parse(*words)
    assert (
        expected in str(error.value)
        and "\n" not in str(error.value)
        and "Recipe" not in str(error.value)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ratee: 1", "unknown key 'ratee'; did you mean 'rate'"),
        ("aa: maybe", "'maybe' is neither true nor false"),
        ("rate: abc", "could not convert string to float: 'abc'"),
        ("- 1", "key: value"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_recipe_files_are_named(tmp_path, text, expected):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(cli.UsageError, match=r"r\.yaml") as error:
        parse("--recipe", str(file))
    assert expected in str(error.value) and "\n" not in str(error.value)


def leave(work, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(Recipe, work, [])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def test_a_recipe_may_stand_on_another(tmp_path):
    (tmp_path / "low.yaml").write_text("patch_size: 3\nrate: 0.5\n")
    (tmp_path / "top.yaml").write_text("base: low.yaml\npatch_size: 4\n")
    r = cli.parse(Recipe, ["--recipe", str(tmp_path / "top.yaml")])
    assert (r.patch_size, r.rate) == (4, 0.5)
    (tmp_path / "low.yaml").write_text("base: top.yaml\n")
    with pytest.raises(cli.UsageError, match="is its own base"):
        cli.parse(Recipe, ["--recipe", str(tmp_path / "top.yaml")])
    (tmp_path / "low.yaml").unlink()
    with pytest.raises(
        cli.UsageError, match=r"top\.yaml: there is no such file as its base .*low\.yaml"
    ):
        cli.parse(Recipe, ["--recipe", str(tmp_path / "top.yaml")])


def test_the_result_is_one_json_line(capsys):
    code, out, _ = leave(lambda r: {"rate": r.rate}, capsys)
    assert (code, out) == (0, '{"rate": 0.1}\n')


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
    ],
)
def test_out_of_memory_is_one_line(capsys, error):
    def work(recipe):
        raise error

    code, out, err = leave(work, capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: out of memory: try a smaller batch")


@pytest.mark.parametrize(
    "said",
    [
        "[pair.cc:561] Connection closed by peer [127.0.0.1]:1. This is typically",
        "Connection reset by peer",
        "Timed out waiting 1800000ms for recv operation to complete",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_rank_that_has_lost_another_says_so_in_one_line(capsys, monkeypatch, said):
    def work(recipe):
        monkeypatch.setattr(ranks, "world_size", lambda: 2)
        raise RuntimeError(said)

    monkeypatch.setenv("MULTICROP_STEP_MINUTES", "7")
    code, _, err = leave(work, capsys)
    assert code == 1 and err.count("\n") == 1
    assert "another rank has failed" in err and "for 7 minutes" in err


@pytest.mark.parametrize("stated", ["soon", "0", "-1", "nan", "1e9"])
def test_a_limit_that_is_no_number_of_minutes(monkeypatch, stated):
    monkeypatch.setenv("MULTICROP_STEP_MINUTES", stated)
    with pytest.raises(ValueError, match=f"MULTICROP_STEP_MINUTES={stated} is no number"):
        ranks.step_minutes()


def test_an_interrupted_run_says_resume_me(capsys):
    assert leave(lambda r: {"status": "interrupted"}, capsys)[0] == 75


def test_a_users_error_is_one_line(capsys):
    code, out, err = leave(lambda r: cli._take_recipe(["--recipe"]), capsys)
    assert (code, out) == (2, "") and err == "error: --recipe needs the path of a YAML file\n"


def test_a_librarys_error_keeps_its_traceback(capsys):
    import json

    code, _, err = leave(lambda r: json.loads("{"), capsys)
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: Expecting")
