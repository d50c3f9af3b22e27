"""What gpu_report needs and does not find: packages, by their names alone, and the images of the recipe.

Imports nothing but Python's own, because any other package may be what is missing.
"""

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Without one of these nothing runs
EVERYTHING = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "tyro",
    "pyyaml",
    "tqdm",
    "filelock",
}
TESTS = {"pytest"}


def required() -> dict[str, str]:
    """Each package of requirements.txt, and what the tests need: its line there without the comment."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [line.partition("#")[0].strip() for line in lines]
    named = {re.split(r"[<>=!~\[ ]", line)[0]: line for line in found if line}
    return {**named, **{name: name for name in TESTS}}


def missing_packages() -> dict[str, str]:
    """Those that are not installed, as `required` gives them."""
    return {name: line for name, line in required().items() if not _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def lines(missing: dict[str, str]) -> list[str]:
    """One line for what stops everything, one for what goes without."""
    stop = sorted(missing.keys() & EVERYTHING)
    others = sorted(missing.keys() - EVERYTHING)
    said = []
    if stop:
        said.append(f"error: not installed, and nothing runs without: {_install(missing, stop)}")
    if others:
        said.append(f"not installed: {_install(missing, others)}; what needs them is left out")
    return said


def _install(missing: dict[str, str], names: list[str]) -> str:
    return f"{', '.join(names)} (pip install {' '.join(repr(missing[name]) for name in names)})"
