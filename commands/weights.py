"""List published weights, which --pretrained_weights published:NAME takes, and where the files are.

multicrop weights                         # all; `multicrop weights cct cifar10` those with both words
"""

from typing import Any

from multicrop.config.weights import Recipe
from multicrop.engine import ranks
from multicrop.weights.published import Published, matching

COLUMNS = ("name", "arch", "pixels", "dataset", "top1", "license", "downloaded")


def run(recipe: Recipe) -> dict[str, Any]:
    rows = matching(recipe.words)
    if not rows:
        raise ValueError(f"no published weights have all of: {', '.join(recipe.words)}")
    if recipe.download:
        for row in rows:
            row.fetch()
    described = [describe(row) for row in rows]
    for line in table(described):
        ranks.log(line)
    return {"status": "finished", "weights": described}


def describe(row: Published) -> dict[str, Any]:
    return {
        "name": row.name,
        "arch": row.backbone["arch"],
        "pixels": row.backbone["image_size"],
        "dataset": row.dataset,
        "classes": row.classes,
        "top1": row.top1,
        "license": row.license,
        "downloaded": row.path.is_file(),
        "path": str(row.path),
        "url": row.url,
        "sha256": row.sha256,
        "source": row.source,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A heading and a line for each row, in columns."""
    lines = [list(COLUMNS), *([shown(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = []
    for cells in lines:
        pairs = zip(cells, widths, strict=True)
        padded.append("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
    return padded


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not stated" if value is None else str(value)
