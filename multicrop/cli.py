"""A recipe as a command line: flags by tyro, values from --recipe FILE.yaml, errors in one line.

torch is not imported before a recipe is understood, so that --help and a wrong flag answer at once.
"""

import contextlib
import inspect
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from ._spelling import AUTO, REGISTRY, WORDS, join_sizes
from .config.flags import Given, aliases, flag_types
from .config.machine import AutoSwitch
from .engine.allocator import keep_memory
from .engine.files import first_line
from .engine.interrupt import RESUME_ME
from .engine.outputs import print_result
from .registry import dataset_help, nearest

R = TypeVar("R")
HELP = (
    "--recipe FILE.yaml gives values to these flags, and the command line wins. Exit codes: 0 done, 75 stopped and "
    "resumable by the same command, 2 something to mend (one line says what), 1 a failure."
)
OUT_OF_MEMORY = (
    "out of memory: try a smaller batch with --accumulate, --checkpoint_activations true, fewer --workers, "
    "or --stream true; what was saved is intact"
)
NAMED_RECIPES = ("auto", "published")
NAMED_HELP = (
    "--recipe auto lets what is not stated follow from the images, and is what one's own images get where no recipe is "
    "given; --recipe published takes the defaults below."
)


class UsageError(ValueError):
    """A command line or recipe that cannot be understood."""


def main(
    recipe_type: type[R],
    work: Callable[[R], dict],
    argv: list[str] | None = None,
    program: str | None = None,
) -> None:
    """Parse, work, print the result as the last line of standard output, and leave with the right exit code.

    0 done; 75 stopped by a signal and resumable; 2 something the user can mend, said in one line; 1 a failure.
    """
    keep_memory()
    try:
        recipe = parse(recipe_type, sys.argv[1:] if argv is None else argv, program)
    except BrokenPipeError:  # the reader of --help has seen enough
        os._exit(0)
    except (ValueError, OSError) as error:
        _report(error)
        sys.exit(2)
    from .engine import ranks  # imports torch

    failed = True
    try:
        result = work(recipe)
        failed = False
    except (ValueError, OSError) as error:
        _report(error)
        sys.exit(2)
    except FloatingPointError as error:
        _report(error)
        sys.exit(1)
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            _say(f"{OUT_OF_MEMORY}: {first_line(error)}")
            sys.exit(1)
        if ranks.world_size() == 1 or not ranks.is_lost_peer(error):
            raise
        lost = ranks.lost_peers() or (
            "another rank has failed, as its message says, or has not answered for "
            f"{ranks.step_minutes():g} minutes"
        )
        _say(f"{lost} ({first_line(error)})")
        sys.exit(1)
    finally:
        ranks.stop(failed)
    if ranks.rank() == 0:
        if result.get("output") == "-":  # rows are on standard output
            print(json.dumps(result), file=sys.stderr, flush=True)
        else:
            print_result(json.dumps(result))
    sys.exit(RESUME_ME if result.get("status") == "interrupted" else 0)


def parse(recipe_type: type[R], argv: list[str], program: str | None = None) -> R:
    """The recipe that a command line gives: defaults, then --recipe FILE.yaml, then flags (with - or _).

    program: what --help calls it (None: the script's name). UsageError in one line.
    """
    names = list(flag_types(recipe_type))
    # What old launchers add
    argv = [word for word in argv if not re.match(r"--local[-_]rank(=|$)", word)]
    file, argv = _take_recipe(argv)
    argv = _complete_switches(recipe_type, _without_aliases(recipe_type, argv))
    stored = []
    try:
        if file and file.lower() in NAMED_RECIPES:
            file = file.lower()
            _check_named(recipe_type, file)
        elif file:
            stored = _from_yaml(file, names, aliases(recipe_type))
        recipe, unknown = _tyro(recipe_type, stored + argv, program)
    except UsageError as error:
        if file and _parses(recipe_type, argv):
            raise UsageError(f"recipe {file}: {error}") from None
        raise
    if unknown:
        if not unknown[0].startswith("-"):
            hint = ": images are named by --datapath" if "datapath" in names else ""
            raise UsageError(f"{unknown[0]} follows no flag{hint}; --help lists all")
        flag = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        hint = nearest(flag, names, show=False)
        raise UsageError(f"unknown flag {unknown[0]}{hint}; --help lists all")
    if not _takes_named(recipe_type):
        return recipe
    return replace(recipe, given=Given(file, _stated(argv)))  # type: ignore[type-var]


def words_of(values: dict[str, Any]) -> list[str]:
    """Settings by name as the flags that they stand for, so that one parser checks them: {"lr": 1} is --lr 1."""
    words: list[str] = []
    for name, value in values.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        words.append(f"--{name}")
        words += [str(item) for item in items]
    return words


# Recipes by name, and recipe files


def _takes_named(recipe_type: Any) -> bool:
    """Whether a recipe remembers how it came about, so that `auto` can leave alone what was stated."""
    return any(field.name == "given" for field in fields(recipe_type))


def _check_named(recipe_type: type, name: str) -> None:
    if not _takes_named(recipe_type):
        raise UsageError(f"{name} is not for this command: give the path of a YAML file")


def _stated(argv: list[str]) -> tuple[str, ...]:
    """The names of the flags on a command line."""
    words = [word for word in argv if word.startswith("--")]
    return tuple(word[2:].partition("=")[0].replace("-", "_") for word in words)


def _take_recipe(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of --recipe, and the other words."""
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


def _from_yaml(file: str, names: list[str], other_names: dict[str, str]) -> list[str]:
    """A recipe file as the flags that it stands for."""
    values = {other_names.get(key, key): value for key, value in _read(Path(file)).items()}
    for key in values:
        if key not in names:
            hint = nearest(str(key), names, show=False)
            raise UsageError(
                f"unknown key {key!r}{hint}; or is it another script's recipe? --help lists all"
            )
    return words_of(values)


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """A recipe file's values, and below them those of the file beside it that its key `base` names."""
    if not path.is_file():
        from_base = f" as its base {path}" if above else ""
        raise UsageError(f"there is no such file{from_base}")
    if path.resolve() in above:
        raise UsageError(f"{path} is its own base")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError("not a recipe: it is nested far too deep") from None
    if not isinstance(values, dict):
        raise UsageError("must be a list of `key: value` lines")
    base = values.pop("base", None)
    if base is None:
        return values
    return _read(path.parent / str(base), (*above, path.resolve())) | values


# Flags


def _complete_switches(recipe_type: type, argv: list[str]) -> list[str]:
    """A bare switch gets its word: `--eval` is `--eval true`. A switch takes no other word from what follows it."""
    types = flag_types(recipe_type)
    switches = {name for name, hint in types.items() if _is_switch(hint)}
    has_positional = any(_is_positional(hint) for hint in types.values())
    words = []
    for word, following in zip_longest(argv, argv[1:], fillvalue="--"):
        words.append(word)
        if not word.startswith("--") or word[2:].replace("-", "_") not in switches:
            continue
        if following.lower() in (*WORDS, "none"):
            continue
        if following.lower() == AUTO and types[word[2:].replace("-", "_")] == AutoSwitch:
            continue
        if has_positional or following.startswith("--"):
            words.append("true")
    return words


def _without_aliases(recipe_type: type, argv: list[str]) -> list[str]:
    """Other spellings of flags in the recipe's own."""
    other_names = aliases(recipe_type)
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if flag.startswith("--") and name in other_names:
            word = f"--{other_names[name]}{equals}{value}"
        words.append(word)
    return words


def _is_switch(hint: Any) -> bool:
    return hint in (bool, bool | None, AutoSwitch)


def _is_positional(hint: Any) -> bool:
    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _parses(recipe_type: type, words: list[str]) -> bool:
    try:
        return bool(_tyro(recipe_type, words))
    except UsageError:
        return False


def _tyro(
    recipe_type: type[R], words: list[str], program: str | None = None
) -> tuple[R, list[str]]:
    """tyro's recipe and the words that it does not know, its boxed message folded into one line."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(
                recipe_type,
                prog=program,
                description=_description(recipe_type),
                args=join_sizes(recipe_type, words),
                use_underscores=True,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
                registry=REGISTRY,
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{_unboxed(boxed.getvalue())}; see --help") from None


def _description(recipe_type: type) -> str:
    """What --help says above the flags."""
    paragraphs = [inspect.getdoc(recipe_type) or "", HELP]
    if _takes_named(recipe_type):
        paragraphs.append(NAMED_HELP)
    if "dataset" in flag_types(recipe_type):
        paragraphs.append(f"--dataset is one of {dataset_help()}; case, - and _ do not matter.")
    return "\n\n".join(paragraphs)


def _unboxed(message: str) -> str:
    """tyro's message without its frame and its hints."""
    said = []
    for line in message.splitlines():
        line = line.strip("│ ")
        if line.startswith(("Argument helptext", "For full")):
            break
        if line and line[0] not in "╭╰─":
            said.append(line)
    # What a recipe's own check says names the flags itself, and the class that found it means nothing to a user.
    return re.sub(r"^Error parsing (?!--)\S+: ", "", " ".join(said))


# Errors


def _report(error: Exception) -> None:
    """One line; before it the traceback where the error comes out of a library, since that one is ours to mend."""
    where = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    ours = Path(__file__).resolve().parent.parent
    raised_by_us = where.is_relative_to(ours) and "site-packages" not in str(
        where.relative_to(ours)
    )
    if not raised_by_us or os.environ.get("MULTICROP_TRACEBACK"):
        traceback.print_exception(error)
    _say(error)


def _say(problem: object) -> None:
    rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    print(f"error{rank}: {problem}", file=sys.stderr, flush=True)


def _is_out_of_memory(error: Exception) -> bool:
    """Of the processor's memory or a GPU's: torch has an error of its own for the latter alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "can't allocate memory" in str(error)
