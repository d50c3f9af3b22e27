"""Plug-ins: a file in models/, datasets/, ssl/objectives/ or supervised/objectives/ is an entry, its name the file's.

Files that start with an underscore hold parts and are not entries.
"""

import difflib
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch.nn as nn


def names(kind: str) -> list[str]:
    """The entries of a kind, e.g. names("models") -> ["cait", "swin", ...]."""
    package = import_module(f"multicrop.{kind}")
    files = (file for folder in package.__path__ for file in Path(folder).glob("*.py"))
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def find(kind: str, name: str) -> ModuleType:
    """The module of one entry; case, - and _ do not matter. ValueError with the nearest name when there is none."""
    known = {_plain(entry): entry for entry in names(kind)}
    if _plain(name) not in known:
        known |= {_plain(alias): entry for entry in known.values() for alias in aliases(kind, entry)}
    entry = known.get(_plain(name))
    if entry is None:
        raise ValueError(f"no {kind} entry is called {name!r}{nearest(name, names(kind))}")
    return import_module(f"multicrop.{kind}.{entry}")


def aliases(kind: str, entry: str) -> tuple[str, ...]:
    """Other published spellings that an entry's module lists in ALIASES."""
    return getattr(import_module(f"multicrop.{kind}.{entry}"), "ALIASES", ())


def backbone(arch: str, image_size: int, **options) -> nn.Module:
    """Build the backbone that a spec string names: "vit", "swin", ..., or "timm:<any timm model>".

    Options that are None keep the architecture's own value; one that it does not have is a ValueError.
    """
    family, _, variant = arch.partition(":")
    build = find("models", family).build
    given = {key: value for key, value in options.items() if value is not None}
    if variant:
        given["name"] = variant
    takes = inspect.signature(build).parameters
    for key in given:
        if key not in takes:
            raise ValueError(f"--arch {arch} has no option {key!r}; it takes {', '.join(takes)}")
    return build(image_size, **given)


def check(arch: str, image_size: int | None = None, **options) -> None:
    """What is wrong with the arguments of `backbone`, to be said before a long decoding; without a size only names."""
    if image_size:
        backbone(arch, image_size, **options)
    else:
        family, _, variant = arch.partition(":")
        getattr(find("models", family), "check", lambda _: None)(variant)


def nearest(word: str, known: list[str], show: bool = True) -> str:
    """The end of an error message: the closest known word, and all of them unless show is False."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f"; known: {', '.join(known)}" if show else "")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
