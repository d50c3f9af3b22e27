"""A frozen dataclass as a command line: flags by tyro, values from --recipe FILE.yaml, errors in one line."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import tyro
import yaml

from .engine.allocator import keep_memory
from .engine.interrupt import RESUME_ME
from .registry import nearest

R = TypeVar("R")
HELP = (
    "--recipe FILE.yaml gives values to these flags, and the command line wins. Exit codes: 0 done, 75 stopped and "
    "resumable by the same command, 2 something to mend (one line says what), 1 a failure."
)
WORDS = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}


def _switch(words: list[str]) -> bool:
    word = words[0].lower()
    if word not in WORDS:
        raise ValueError(f"{words[0]!r} is neither true nor false")
    return WORDS[word]


REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _switch_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Booleans take a word: true or false (also on/off, yes/no, 1/0), as the published commands have them."""
    if info.type is not bool:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="true|false",
        instance_from_str=_switch,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["true" if value else "false"],
    )


class UsageError(ValueError):
    """A command line or recipe that cannot be understood."""


def parse(recipe_type: type[R], argv: list[str]) -> R:
    """The recipe that a command line gives: defaults, then --recipe FILE.yaml, then flags (with - or _)."""
    names = [field.name for field in dataclasses.fields(recipe_type)]
    argv = [
        token for token in argv if not re.match(r"--local[-_]rank(=|$)", token)
    ]  # what old launchers add
    file, rest = _take_recipe(argv)
    rest = _complete_switches(recipe_type, rest)
    try:
        parsed, unknown = _tyro(recipe_type, (_from_yaml(file, names) if file else []) + rest)
    except UsageError as error:
        raise (
            UsageError(f"recipe {file}: {error}") if file and _parses(recipe_type, rest) else error
        ) from None
    if unknown:
        flag = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        raise UsageError(
            f"unknown flag {unknown[0]}{nearest(flag, names, show=False)}; --help lists all"
        )
    return parsed


def main(recipe_type: type[R], work: Callable[[R], dict], argv: list[str] | None = None) -> None:
    """Parse, work, print the result as the last line of standard output, and leave with the right exit code.

    0 done; 75 stopped by a signal and resumable; 2 something the user can mend, said in one line; 1 a failure.
    """
    keep_memory()
    try:
        recipe = parse(recipe_type, sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as error:
        _report(error)
        sys.exit(2)
    from .engine import ranks  # imports torch, which --help and a wrong flag need not wait for

    try:
        result = work(recipe)
    except (ValueError, OSError) as error:
        _report(error)
        sys.exit(2)
    except FloatingPointError as error:
        _report(error)
        sys.exit(1)
    except RuntimeError as error:
        if ranks.world() == 1 or "closed by peer" not in str(error):
            raise
        print(
            f"rank {ranks.rank()}: another rank failed, its message says why",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)
    finally:
        ranks.stop()
    if ranks.rank() == 0:
        print(json.dumps(result), flush=True)
    sys.exit(RESUME_ME if result.get("status") == "interrupted" else 0)


def _report(error: Exception) -> None:
    """One line; before it the traceback where the error comes out of a library, since that one is ours to mend."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = Path(__file__).resolve().parent.parent
    ours_raised = Path(where).resolve().is_relative_to(ours) and "site-packages" not in str(
        Path(where).resolve().relative_to(ours)
    )
    if not ours_raised or os.environ.get("MULTICROP_TRACEBACK"):
        traceback.print_exception(error)
    which = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    print(f"error{which}: {error}", file=sys.stderr, flush=True)


def _take_recipe(argv: list[str]) -> tuple[str | None, list[str]]:
    rest, file = [], None
    words = iter(argv)
    for word in words:
        if word == "--recipe":
            file = next(words, None)
            if file is None:
                raise UsageError("--recipe needs the path of a YAML file")
        elif word.startswith("--recipe="):
            file = word.partition("=")[2]
        else:
            rest.append(word)
    return file, rest


def _complete_switches(recipe_type: type, argv: list[str]) -> list[str]:
    """A bare switch gets its word: `--eval` is `--eval true`. A switch takes no other word from what follows it."""
    hints = get_type_hints(recipe_type, include_extras=True)
    switches = {
        name
        for name, hint in hints.items()
        if hint is bool or set(get_args(hint)) == {bool, type(None)}
    }
    positional = any(
        tyro.conf.Positional in getattr(hint, "__metadata__", ()) for hint in hints.values()
    )
    words = []
    for word, following in zip_longest(argv, argv[1:], fillvalue="--"):
        words.append(word)
        bare = word.startswith("--") and word[2:].replace("-", "_") in switches
        if (
            bare
            and following.lower() not in (*WORDS, "none")
            and (positional or following.startswith("--"))
        ):
            words.append("true")
    return words


def _parses(recipe_type: type, words: list[str]) -> bool:
    try:
        return bool(_tyro(recipe_type, words))
    except UsageError:
        return False


def _from_yaml(file: str, names: list[str]) -> list[str]:
    """A recipe file as the flags it stands for, so that one parser checks both."""
    values = _read(Path(file))
    for key in values:
        if key not in names:
            hint = nearest(str(key), names, show=False)
            raise UsageError(
                f"unknown key {key!r}{hint}; or is it another script's recipe? --help lists all"
            )
    return [word for key, value in values.items() for word in _flag(key, value)]


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """A recipe file's values, and below them those of the file beside it that its key `base` names."""
    if not path.is_file():
        raise UsageError(f"there is no such file{f' as its base {path}' if above else ''}")
    if path.resolve() in above:
        raise UsageError(f"{path} is its own base")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError("must be a list of `key: value` lines")
    base = values.pop("base", None)
    if base is None:
        return values
    return _read(path.parent / str(base), (*above, path.resolve())) | values


def _flag(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [f"--{key}", *("None" if item is None else str(item) for item in values)]


def _tyro(recipe_type: type[R], words: list[str]) -> tuple[R, list[str]]:
    """tyro's answer, its boxed message folded into one line."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(
                recipe_type,
                description=f"{inspect.getdoc(recipe_type)}\n\n{HELP}",
                args=words,
                use_underscores=True,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff,),
                registry=REGISTRY,
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│ ") for line in boxed.getvalue().splitlines()]
        body = [line for line in lines if line and line[0] not in "╭╰─"]
        cut = next(
            (
                i
                for i, line in enumerate(body)
                if line.startswith(("Argument helptext", "For full"))
            ),
            len(body),
        )
        # What a recipe's own check says names the flags itself, and the recipe's class means nothing to a user.
        said = " ".join(body[:cut]).removeprefix(f"Error parsing {recipe_type.__name__}: ")
        raise UsageError(f"{said}; see --help") from None
