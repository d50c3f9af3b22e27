"""The program of a decoding worker: _decode.py and its parts, without the rest of the package, which imports torch."""

import os
import sys
from importlib import import_module
from types import ModuleType


def import_alone(part: str) -> ModuleType:
    """A file of this folder, its relative imports too, as of a package that holds nothing but this folder."""
    package = ModuleType("decoder")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.{part}")


if __name__ == "__main__":
    import_alone("_decode").main(sys.argv[1:])
