"""The command line: `multicrop NAME ...` or `python -m multicrop NAME ...`; alone it lists the commands.

A file of commands/ is a command, its name the command's. Nothing heavy is imported before one runs.
"""

import ast
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib import import_module
from typing import TextIO, cast

from . import registry
from .engine.interrupt import ending_at_once
from .engine.outputs import Lasting

GROUPS = {
    "train": ("advise", "pretrain", "finetune"),
    "judge": ("knn", "linear", "labels", "robustness", "report", "visualise"),
    "use": ("predict", "embed", "export"),
    "tools": ("check", "pack", "precompute", "weights"),
}
USAGE = """usage: multicrop NAME ...

{commands}

multicrop NAME --help lists every flag of a command with its unit and default."""


def main(argv: list[str] | None = None, program: str | None = None) -> None:
    """program: what --help calls a command (None: multicrop NAME)."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = words
    commands = registry.names("commands")
    if name not in commands:
        hint = registry.nearest(name, commands)
        print(f"error: no command is called {name!r}{hint}", file=sys.stderr)
        sys.exit(2)
    # The list above needs no parser. A recipe is parsed before its command is imported, so that --help and a wrong
    # flag need no torch.
    with redirect_stderr(cast(TextIO, Lasting(sys.stderr))), ending_at_once() as imported:
        from . import cli

        recipe_type = import_module(f"multicrop.config.{name}").Recipe
        program = program or f"multicrop {name}"
        cli.main(recipe_type, lambda recipe: run(name, recipe, imported), rest, program)


def run(name: str, recipe: object, imported: Callable[[], None]) -> dict:
    """The result of a command, which is imported now."""
    command = import_module(f"multicrop.commands.{name}")
    imported()
    return command.run(recipe)


def usage() -> str:
    """The commands by what they are for, each with the first line of its file's docstring."""
    names = registry.names("commands")
    width = max(map(len, names))
    groups = []
    for title, group in GROUPS.items():
        lines = [f"  {name:<{width}}  {_first_line(name)}" for name in group]
        groups.append("\n".join([title, *lines]))
    return USAGE.format(commands="\n\n".join(groups))


def _first_line(command: str) -> str:
    """The first line of a command's docstring, read without importing the file."""
    docstring = ast.get_docstring(ast.parse(registry.file("commands", command).read_text()))
    return (docstring or "").partition("\n")[0]


if __name__ == "__main__":
    main()
