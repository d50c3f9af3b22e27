"""Plug-ins: a file in commands/, models/, datasets/ or an objectives/ is an entry, and its name is the file's.

A file in models/ may list more names in VARIANTS: {name: options of its build, image_size the published size}. A file
in datasets/ declares its other names in DATASET (datasets/_data_set.py).

Files that start with an underscore hold parts and are not entries. One that ends with an underscore is called so
because a package has its name: lmdb_.py is the entry lmdb.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .config.sizes import ImageSize, height_width, in_words, shortest

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.nn as nn

KINDS = {"models": "family of backbones", "datasets": "data set"}


def names(kind: str) -> list[str]:
    """The entries of a kind, e.g. names("models") -> ["cait", "swin", ...]."""
    return sorted(_files(kind))


def file(kind: str, name: str) -> Path:
    """The file of one entry, not imported."""
    return _files(kind)[name]


def _files(kind: str) -> dict[str, Path]:
    """The file of every entry."""
    files: dict[str, Path] = {}
    for folder in import_module(f"multicrop.{kind}").__path__:
        for path in Path(folder).glob("[!_]*.py"):
            files.setdefault(path.stem.removesuffix("_"), path)
    return files


def find(kind: str, name: str) -> ModuleType:
    """The module of one entry; case, - and _ do not matter. ValueError with the nearest name when there is none."""
    entries = names(kind)
    entry = _match(name, entries)
    if entry is None:
        kind_name = KINDS.get(kind, "objective")
        raise ValueError(f"no {kind_name} is called {name!r}{nearest(name, entries)}")
    return _module(kind, entry)


def _module(kind: str, entry: str) -> ModuleType:
    return import_module(f"multicrop.{kind}.{file(kind, entry).stem}")


# Data sets


@dataclass(frozen=True)
class Source:
    """What --dataset names. The types that load and listing return are those of datasets/_data_set.py."""

    entry: str
    """The name of its file in datasets/."""
    data_set: Any
    """The DataSet that the file declares."""
    variant: Mapping[str, Any]
    """The further arguments of load and listing that make it this variant."""

    @property
    def labelled(self) -> bool:
        return self.data_set.labelled

    @property
    def takes_columns(self) -> bool:
        """Whether flags may say which columns hold images, labels and splits."""
        return "label_column" in inspect.signature(self.data_set.load).parameters

    def with_columns(self, columns: Mapping[str, str]) -> Source:
        """The same, its columns named by image_column, label_column, split_column. ValueError where it has none."""
        if columns and not self.takes_columns:
            flag, column = next(iter(columns.items()))
            raise ValueError(
                f"--{flag} {column}: --dataset {self.entry} has no columns to choose from"
            )
        return replace(self, variant={**self.variant, **columns})

    @property
    def own(self) -> bool:
        """Whether these are the user's own images, which no published recipe is for."""
        return self.data_set.own

    def has_validation(self, root: str | Path) -> bool:
        """Whether load takes the split "val" too: a public validation split beside train and test."""
        validation = self.data_set.validation
        return validation is not None and validation(root, **self.variant)

    def unsplit(self, root: str | Path) -> Any:
        """The Listing of all images where root has no split of its own, else None: what to measure a network on."""
        unsplit = self.data_set.unsplit
        return None if unsplit is None else unsplit(root, **self.variant)

    def inventory(self, root: str | Path) -> Any:
        """The Inventory of all files below root; None where files are no images each."""
        inventory = self.data_set.inventory
        return None if inventory is None else inventory(root, **self.variant)

    def recognise(self, folder: Any, columns: Mapping[str, str]) -> str | None:
        """How --dataset names what a folder holds, if it looks like this data set and has the columns, if any."""
        recognise = self.data_set.recognise
        if recognise is None or (columns and not self.takes_columns):
            return None
        return recognise(folder, **columns)

    def load(self, root: str | Path, split: str, options: Any = None) -> Any:
        """The ImageSet of "train", "test" or (see has_validation) "val", read as the options say."""
        if options is None:
            return self.data_set.load(root, split, **self.variant)
        return self.data_set.load(root, split, options, **self.variant)

    def listing(self, root: str | Path, split: str) -> Any:
        """The Listing of a split's image files, not read yet; None where there are no such files."""
        if self.data_set.listing is None:
            return None
        return self.data_set.listing(root, split, **self.variant)


def source(dataset: str) -> Source:
    """ "cifar10" (a file of datasets/, or an alias), "domainnet:clipart" (a variant that a file declares), "hf:<name>".

    Case, - and _ do not matter. ValueError with the nearest name when there is none.
    """
    entries: dict[str, str] = {}  # of every name
    variants: dict[str, dict[str, Any]] = {}
    for entry, declaration in declarations().items():
        variants |= declaration.get("variants", {})
        for spelling in (entry, *declaration.get("aliases", ()), *declaration.get("variants", {})):
            entries[spelling] = entry
    name = _match(dataset, list(entries))
    entry, _, inner = dataset.partition(":")
    if name is None and inner and _match(entry, ["hf"]):
        return Source("hf", _module("datasets", "hf").DATASET, {"name": inner})
    if name is None:
        raise ValueError(f"no data set is called {dataset!r}{nearest(dataset, list(entries))}")
    module = _module("datasets", entries[name])  # the other files are not imported
    return Source(entries[name], module.DATASET, variants.get(name, {}))


@functools.cache
def declarations() -> dict[str, dict[str, Any]]:
    """The literal arguments of each entry's DATASET = DataSet(...), read without importing the file (and torch)."""
    declared = {}
    for entry in names("datasets"):
        arguments = {}
        for argument in _call_of(file("datasets", entry), "DATASET").keywords:
            if not isinstance(argument.value, (ast.Name, ast.Attribute)):  # a function
                arguments[str(argument.arg)] = ast.literal_eval(argument.value)
        declared[entry] = arguments
    return declared


def _call_of(path: Path, name: str) -> ast.Call:
    """The call that a file assigns to `name`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(node.value, ast.Call)
            return node.value
    raise AttributeError(f"{path} has no {name}")


def dataset_help(labelled: bool = False) -> str:
    """The names for --dataset, for a help text; with labelled=True of the data sets with labels alone."""
    spellings = []
    for entry, declaration in declarations().items():
        if declaration.get("labelled", True) or not labelled:
            spellings += [entry, *_variant_names(declaration)]
    return ", ".join(spellings)


def dataset_table() -> str:
    """The table of data sets in docs/datasets.md, in Markdown."""
    rows = ["| `--dataset` | data set | what `--datapath` holds |", "|---|---|---|"]
    for entry, declaration in declarations().items():
        spellings = [entry, *declaration.get("aliases", ()), *_variant_names(declaration)]
        cell = ", ".join(f"`{name}`" for name in spellings)
        rows.append(f"| {cell} | {declaration['title']} | {declaration['layout']} |")
    return "\n".join(rows)


def _variant_names(declaration: dict[str, Any]) -> list[str]:
    """The first name of each variant."""
    spellings: list[str] = []
    variants: list[dict] = []
    for name, variant in declaration.get("variants", {}).items():
        if variant not in variants:
            variants.append(variant)
            spellings.append(name)
    return spellings


# Backbones


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
    entry = _match(arch, names("models"))
    if entry is not None:
        return Architecture(_module("models", entry), {})
    modules = variants()
    variant = _match(arch, list(modules))
    if variant is not None:
        module = modules[variant]
        return Architecture(module, module.VARIANTS[variant])
    hint = nearest(arch, [*names("models"), *modules], show=False)
    raise ValueError(f"--arch {arch}: no such backbone{hint}; a model of timm is timm:<name>")


def variants() -> dict[str, ModuleType]:
    """Every registered name of a size or published setting, and the family's module: {"cct_7_3x1_32": ..., ...}."""
    modules = [_module("models", entry) for entry in names("models")]
    return {name: module for module in modules for name in _variants(module)}


def _variants(module: ModuleType) -> dict[str, dict]:
    return getattr(module, "VARIANTS", {})


def backbone(
    arch: str,
    image_size: ImageSize | None = None,
    *,
    standardise: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Build the backbone that a spec string names, for images of `image_size` px (None: a variant's own size).

    One number is a square's side, two are height and width: a ValueError where the architecture takes squares alone.

    Options that are None keep the architecture's own value; one that it does not have is a ValueError. standardise:
    whether the network first brings each image to mean 0 and deviation 1, which any architecture can.
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
    image_size = shortest(image_size)
    if not isinstance(image_size, int):
        _check_rectangles(arch, module, image_size)
    network = module.build(image_size, **given)
    if standardise:
        network = import_module("multicrop.models._standardise").standardising(network)
    return network


def _check_rectangles(arch: str, module: ModuleType, image_size: ImageSize) -> None:
    """ValueError unless an architecture is built for images that are not square."""
    if getattr(module, "RECTANGLES", False):
        return
    others = [entry for entry in names("models") if hasattr(_module("models", entry), "RECTANGLES")]
    raise ValueError(
        f"--arch {arch} takes square images, and --image_size is {in_words(image_size)}: give one number, or an "
        f"architecture of {', '.join(others)}"
    )


def own_image_size(arch: str) -> int | None:
    """The published image size of an architecture, in pixels; None where it has none."""
    return architecture(arch).options.get("image_size")


def adapter(
    arch: str, image_size: ImageSize | None = None
) -> Callable[[dict, nn.Module], dict] | None:
    """What turns the published code's state dict into that of a backbone; None where names agree.

    image_size: of the images that the state dict is for, where it is known.
    """
    module = architecture(arch).module
    adapt = getattr(module, "adapt", None)
    if adapt is None or image_size is None or isinstance(shortest(image_size), int):
        return adapt
    takes_size = "image_size" in inspect.signature(adapt).parameters
    return partial(adapt, image_size=height_width(image_size)) if takes_size else adapt


def check(arch: str, image_size: ImageSize | None = None, **options: Any) -> None:
    """What is wrong with the arguments of `backbone`, to be said before a long decoding; without a size only names."""
    if image_size:
        backbone(arch, image_size, **options)
    else:
        module, own = architecture(arch)
        getattr(module, "check", lambda _: None)(own.get("name"))


def nearest(word: str, known_names: list[str], show: bool = True) -> str:
    """The end of an error message: the closest of the known names, and all of them unless show is False."""
    close = difflib.get_close_matches(word.lower(), known_names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    if show:
        hint += f"; known: {', '.join(known_names)}"
    return hint


def _match(name: str, candidates: list[str]) -> str | None:
    """The first candidate that is spelled alike but for case, - and _."""
    for candidate in candidates:
        if _plain(candidate) == _plain(name):
            return candidate
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
