"""Plug-ins: a file in commands/, models/, datasets/ or an objectives/ is an entry, and its name is the file's.

A file in models/ may list more names in VARIANTS: {name: options of its build, image_size the published size}.

Files that start with an underscore hold parts and are not entries.
"""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.nn as nn

KINDS = {"models": "family of backbones", "datasets": "data set"}


def names(kind: str) -> list[str]:
    """The entries of a kind, e.g. names("models") -> ["cait", "swin", ...]."""
    files = (file for folder in _folders(kind) for file in folder.glob("*.py"))
    return sorted({file.stem for file in files if not file.stem.startswith("_")})


def file(kind: str, name: str) -> Path:
    """The file of one entry, not imported."""
    return next(
        folder / f"{name}.py" for folder in _folders(kind) if (folder / f"{name}.py").is_file()
    )


def _folders(kind: str) -> list[Path]:
    return [Path(folder) for folder in import_module(f"multicrop.{kind}").__path__]


def find(kind: str, name: str) -> ModuleType:
    """The module of one entry; case, - and _ do not matter. ValueError with the nearest name when there is none."""
    known = {_plain(entry): entry for entry in names(kind)}
    if _plain(name) not in known:
        known |= {
            _plain(alias): entry for entry in known.values() for alias in aliases(kind, entry)
        }
    entry = known.get(_plain(name))
    if entry is None:
        raise ValueError(
            f"no {KINDS.get(kind, 'objective')} is called {name!r}{nearest(name, names(kind))}"
        )
    return import_module(f"multicrop.{kind}.{entry}")


def aliases(kind: str, entry: str) -> tuple[str, ...]:
    """Other published spellings that an entry's module lists in ALIASES."""
    return _aliases(import_module(f"multicrop.{kind}.{entry}"))


def _aliases(module: ModuleType) -> tuple[str, ...]:
    return getattr(module, "ALIASES", ())


class Source(NamedTuple):
    """What --dataset names: a module of datasets/, its name, and the options that make it this variant."""

    entry: str
    module: ModuleType
    options: dict

    def load(self, root: str | Path, split: str, **how):
        """The ImageSet of a split."""
        return self.module.load(root, split, **self.options, **how)

    def listing(self, root: str | Path, split: str):
        """The names and labels of a split's image files, not read yet; None where there are no such files."""
        return (
            self.module.listing(root, split, **self.options)
            if hasattr(self.module, "listing")
            else None
        )


def source(dataset: str) -> Source:
    """ "cifar10" (a file of datasets/, or a spelling that it lists) or "domainnet:clipart" (a name in some VARIANTS).

    Case, - and _ do not matter. ValueError with the nearest name when there is none.
    """
    entries = {_plain(entry): entry for entry in names("datasets")}
    if entry := entries.get(_plain(dataset)):
        return Source(entry, import_module(f"multicrop.datasets.{entry}"), {})
    modules = {entry: import_module(f"multicrop.datasets.{entry}") for entry in entries.values()}
    known = {}
    for entry, module in modules.items():
        known |= {name: Source(entry, module, {}) for name in (entry, *_aliases(module))}
        known |= {
            name: Source(entry, module, options) for name, options in _variants(module).items()
        }
    for name, found in known.items():
        if _plain(name) == _plain(dataset):
            return found
    raise ValueError(f"no data set is called {dataset!r}{nearest(dataset, [*known])}")


class Architecture(NamedTuple):
    """What a spec string names: the family's module and the options that make it this variant."""

    module: ModuleType
    options: dict


def architecture(arch: str) -> Architecture:
    """ "vit" (a file of models/), "cct_7_3x1_32" (a name in some file's VARIANTS) or "timm:<any timm model>".

    Case, - and _ do not matter but in timm's names. ValueError with the nearest name when there is none.
    """
    family, _, name = arch.partition(":")
    if name:
        return Architecture(find("models", family), {"name": name})
    known = {_plain(entry): entry for entry in names("models")}
    if _plain(arch) in known:
        return Architecture(import_module(f"multicrop.models.{known[_plain(arch)]}"), {})
    known = variants()
    for variant, module in known.items():
        if _plain(variant) == _plain(arch):
            return Architecture(module, module.VARIANTS[variant])
    hint = nearest(arch, [*names("models"), *known], show=False)
    raise ValueError(f"--arch {arch}: no such backbone{hint}; a model of timm is timm:<name>")


def variants() -> dict[str, ModuleType]:
    """Every registered name of a size or published setting, and the family's module: {"cct_7_3x1_32": ..., ...}."""
    modules = [import_module(f"multicrop.models.{entry}") for entry in names("models")]
    return {name: module for module in modules for name in _variants(module)}


def _variants(module: ModuleType) -> dict[str, dict]:
    return getattr(module, "VARIANTS", {})


def backbone(arch: str, image_size: int | None = None, **options) -> nn.Module:
    """Build the backbone that a spec string names, for square images of `image_size` px (None: a variant's own size).

    Options that are None keep the architecture's own value; one that it does not have is a ValueError.
    """
    module, own = architecture(arch)
    given = own | {key: value for key, value in options.items() if value is not None}
    image_size = image_size or given.get("image_size")
    given.pop("image_size", None)
    takes = inspect.signature(module.build).parameters
    for key in given:
        if key not in takes:
            raise ValueError(f"--arch {arch} has no option {key!r}; it takes {', '.join(takes)}")
    if image_size is None:
        raise ValueError(f"--arch {arch} has no image size of its own: give one in pixels")
    return module.build(image_size, **given)


def own_image_size(arch: str) -> int | None:
    """The published image size of an architecture, in pixels; None where it has none."""
    return architecture(arch).options.get("image_size")


def adapter(arch: str) -> Callable[[dict, nn.Module], dict] | None:
    """What turns the published code's state dict into that of a backbone; None where names agree."""
    return getattr(architecture(arch).module, "adapt", None)


def check(arch: str, image_size: int | None = None, **options) -> None:
    """What is wrong with the arguments of `backbone`, to be said before a long decoding; without a size only names."""
    if image_size:
        backbone(arch, image_size, **options)
    else:
        module, own = architecture(arch)
        getattr(module, "check", lambda _: None)(own.get("name"))


def nearest(word: str, known: list[str], show: bool = True) -> str:
    """The end of an error message: the closest known word, and all of them unless show is False."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f"; known: {', '.join(known)}" if show else "")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
