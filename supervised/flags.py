"""The check that the parts of the recipe share."""


def require(condition: bool, name: str, value, what: str) -> None:
    """ValueError about a flag unless the condition holds."""
    if not condition:
        raise ValueError(f"--{name} {value}: {what}")
