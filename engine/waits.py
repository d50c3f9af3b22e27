"""How long ranks wait for each other, where the environment says so."""

import os


def stated(name: str, default: str, below: float, words: str) -> float:
    """$name as a number above 0 and below another; the default where it is not set. ValueError for any other.

    words: what such a number is of, for the message.
    """
    value = os.environ.get(name) or default
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < below:
        raise ValueError(f"{name}={value} is no number of {words}")
    return number
