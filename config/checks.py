"""Checks of a setting's value: one rule, one message that names the flag."""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What must hold of a number, and how a message says it."""

    holds: Callable[[Any], bool]
    words: str


AT_LEAST_1 = Rule(lambda value: value >= 1, "must be at least 1")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
FINITE = Rule(lambda value: 0 <= value < inf, "must be finite and not negative")
POSITIVE = Rule(lambda value: 0 < value < inf, "must be positive")
ABOVE_0 = Rule(lambda value: value > 0, "must be above 0")
SHARE = Rule(lambda value: 0 <= value <= 1, "must be within 0 and 1")
SHARE_BELOW_1 = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
SHARE_ABOVE_0 = Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
A_PERCENTAGE = Rule(lambda value: 0 < value <= 100, "must be above 0 and at most 100")
EVEN = Rule(lambda value: value % 2 == 0, "must be even: local crops have half of it")


def check_values(settings: object, rule: Rule, *names: str) -> None:
    """ValueError unless the rule holds of these fields, of each number of a tuple; None is left open and passes."""
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if number is not None:
                require(rule.holds(number), name, value, rule.words)


def check_bounds(settings: object, *names: str) -> None:
    """ValueError unless these pairs are a lower and an upper bound."""
    for name in names:
        low, high = getattr(settings, name)
        require(low <= high, name, (low, high), "must be a lower and an upper bound")


def require(condition: object, name: str, value: object, words: str) -> None:
    """ValueError about a flag unless the condition is true."""
    if not condition:
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise ValueError(f"--{name} {shown}: {words}")
