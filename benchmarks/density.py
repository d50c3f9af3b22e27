"""How dense the code is: expression nodes a line, comprehensions and conditional expressions per 1,000 lines.

    python -m benchmarks.density                # the product code of this checkout
    python -m benchmarks.density models ssl     # some of its folders

An expression node is an `ast.expr` of any kind; a line is one that is not blank. LOG.md has what was measured when.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = (
    "commands", "config", "engine", "weights", "ssl", "supervised", "augment", "probes", "models", "datasets",
    "pictures", "multicrop",
)  # fmt: skip
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def measure(paths: list[Path]) -> dict[str, float]:
    """The counts of these files together."""
    lines = nodes = comprehensions = conditionals = 0
    for path in paths:
        text = path.read_text()
        lines += sum(1 for line in text.splitlines() if line.strip())
        for node in ast.walk(ast.parse(text)):
            nodes += isinstance(node, ast.expr)
            comprehensions += isinstance(node, COMPREHENSIONS)
            conditionals += isinstance(node, ast.IfExp)
    return {
        "files": len(paths),
        "lines": lines,
        "nodes_per_line": round(nodes / lines, 2),
        "comprehensions_per_1000_lines": round(1000 * comprehensions / lines, 1),
        "conditionals_per_1000_lines": round(1000 * conditionals / lines, 1),
    }


def files(folders: tuple[str, ...]) -> list[Path]:
    """The Python files of these folders, and the root scripts with all of the product."""
    scripts = sorted(ROOT.glob("*.py")) if folders == PRODUCT else []
    return scripts + [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def main() -> None:
    folders = tuple(sys.argv[1:]) or PRODUCT
    unknown = [folder for folder in folders if folder not in PRODUCT]
    if unknown:
        sys.exit(f"error: {unknown[0]} is none of {', '.join(PRODUCT)}")
    for folder in folders:
        print(f"{folder:<12}", measure(files((folder,))))
    print(f"{'all':<12}", measure(files(folders)))


if __name__ == "__main__":
    main()
