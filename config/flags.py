"""A recipe is made of parts; on the command line, in recipe files and in checkpoints its settings stand side by side.

The name of a flag is that of the field, whatever part it is in: recipe.optimisation.lr is --lr.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")
NOT_A_FLAG = {"flag": False}
"""Metadata of a recipe's field that the command line does not have."""


def aliases(recipe_type: type) -> dict[str, str]:
    """Other spellings of a recipe's flags, which the command line and recipe files take: {"out": "output"}."""
    return getattr(recipe_type, "ALIASES", {})


@dataclass(frozen=True)
class Given:
    """How a recipe came about: what --recipe named, and the flags whose values were stated on the command line."""

    recipe: str | None = None
    flags: tuple[str, ...] = ()


def from_flags(recipe_type: type[R], values: Mapping[str, Any]) -> R:
    """The recipe that has these values and its defaults elsewhere; lists become tuples, unknown names are left out."""
    arguments: dict[str, Any] = {}
    for field, part_type in _parts(recipe_type):
        if part_type is None:
            if field.name in values:
                arguments[field.name] = _frozen(values[field.name])
        else:
            arguments[field.name] = _replaced(_default(field), values)
    return recipe_type(**arguments)


def to_flags(recipe: object) -> dict[str, Any]:
    """Every setting of a recipe by its flag's name, as plain values: tuples become lists."""
    values: dict[str, Any] = {}
    for field in fields(recipe):  # type: ignore[arg-type]  # a dataclass of any type
        if field.metadata == NOT_A_FLAG:
            continue
        value = getattr(recipe, field.name)
        if is_dataclass(value):
            values |= to_flags(value)
        else:
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def flag_types(recipe_type: type) -> dict[str, Any]:
    """The annotated type of every setting, by its flag's name."""
    types: dict[str, Any] = {}
    hints = get_type_hints(recipe_type, include_extras=True)
    for field, part_type in _parts(recipe_type):
        if part_type is None:
            types[field.name] = hints[field.name]
        else:
            types |= flag_types(part_type)
    return types


def typed(value: Any) -> str:
    """A setting's value as it is typed on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def stated_values(recipe: Any) -> dict[str, Any]:
    """The settings that were stated on the command line, by the names of their flags."""
    flags = to_flags(recipe)
    stated = recipe.given.flags if recipe.given else ()
    return {name: flags[name] for name in stated if name in flags}


def with_flags(recipe: R, values: Mapping[str, Any]) -> R:
    """The recipe with these values by the names of flags, which come about as the recipe did."""
    changed: Any = from_flags(type(recipe), to_flags(recipe) | dict(values))
    return replace(changed, given=recipe.given)  # type: ignore[attr-defined]


def changed_flags(recipe: object) -> dict[str, Any]:
    """The settings that do not have their defaults."""
    defaults = to_flags(from_flags(type(recipe), {}))
    return {name: value for name, value in to_flags(recipe).items() if value != defaults[name]}


def _parts(recipe_type: Any) -> list[tuple[Field, type | None]]:
    """Each field that is on the command line, with the type of the part that it holds; None where it is a setting."""
    hints = get_type_hints(recipe_type)
    return [
        (field, hints[field.name] if is_dataclass(hints[field.name]) else None)
        for field in fields(recipe_type)
        if field.metadata != NOT_A_FLAG
    ]


def _default(field: Field) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _replaced(part: Any, values: Mapping[str, Any]) -> Any:
    """A part with the values that are named as its fields."""
    own = {field.name: getattr(part, field.name) for field in fields(part)}
    given = {name: _frozen(value) for name, value in values.items() if name in own}
    return type(part)(**own | given)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
