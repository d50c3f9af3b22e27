"""How the values of flags are spelled: a word for a switch, one or two numbers for the size of images."""

import re
from typing import Literal

import tyro

from .config.flags import flag_types
from .config.machine import AutoSwitch
from .config.sizes import ImageSize, in_words, shortest

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

AUTO: Literal["auto"] = "auto"


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


@REGISTRY.primitive_rule
def _auto_switch_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """The same, or auto."""
    if info.type != AutoSwitch:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="auto|true|false",
        instance_from_str=_auto_or_switch,
        is_instance=lambda value: value == AUTO or isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _auto_or_switch(words: list[str]) -> AutoSwitch:
    word = words[0].lower()
    if word not in (AUTO, *WORDS):
        raise ValueError(f"{words[0]!r} is neither auto, true nor false")
    return AUTO if word == AUTO else WORDS[word]


@REGISTRY.primitive_rule
def _size_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Sizes are one word: 32, or 32x64, which `join_sizes` makes of 32 64. So a path may stand behind them."""
    if info.type not in (ImageSize, ImageSize | None):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PX|HEIGHT WIDTH",
        instance_from_str=_size,
        is_instance=lambda value: value is None or isinstance(value, (int, tuple)),
        str_from_instance=lambda value: [in_words(value).replace(" ", "") if value else "None"],
    )


def _size(words: list[str]) -> ImageSize | None:
    if words[0].lower() == "none":
        return None
    if not re.fullmatch(r"-?\d+(x\d+)?", words[0]):
        raise ValueError(f"{words[0]!r} is neither a side in pixels nor a height and a width")
    numbers = [int(number) for number in words[0].split("x")]
    return shortest((numbers[0], numbers[-1]))


def join_sizes(recipe_type: type, words: list[str]) -> list[str]:
    """The two numbers of a height and a width as one word."""
    types = flag_types(recipe_type)
    joined: list[str] = []
    for word in words:
        flag = joined[-2][2:].replace("-", "_") if len(joined) > 1 else ""
        is_second = word.isdecimal() and joined[-1].isdecimal()
        if is_second and types.get(flag) in (ImageSize, ImageSize | None):
            joined[-1] += f"x{word}"
        else:
            joined.append(word)
    return joined
