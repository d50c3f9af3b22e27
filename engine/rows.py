"""Files of rows: one JSON object a line, each with the number of a step and, at its end, a checksum of its own.

A digit may become another, and a killed process may leave half of a line.
"""

import json
import zlib
from pathlib import Path
from typing import Any

CRC = "crc"  # last in each row: the CRC-32 of the row without it
Row = dict[str, Any]


def line_of(row: Row) -> str:
    """A row as it is written: with its checksum."""
    checksum = zlib.crc32(json.dumps(row).encode())
    return json.dumps({**row, CRC: f"{checksum:08x}"})


def parse(path: Path) -> tuple[list[Row], dict[int, str]]:
    """The rows, and the lines that are none by their numbers; bytes that are not UTF-8 are written out there.

    What a killed run left of its last line is neither.
    """
    if not path.exists():
        return [], {}
    *lines, torn = path.read_text(errors="backslashreplace").split("\n")
    if "}" in torn:  # a whole row, though not the end of its line
        lines.append(torn)
    parsed = {number: _row(line) for number, line in enumerate(lines, 1) if line}
    # Those of older versions have no checksums; a run that goes on gives them some
    has_checksums = any(row and CRC in row for row in parsed.values())
    rows, damaged = [], {}
    for number, row in parsed.items():
        line = lines[number - 1]
        if row is not None and row.pop(CRC, None) is not None:
            row = row if line_of(row) == line else None
        elif has_checksums:
            row = None
        if row is None:
            damaged[number] = line
        else:
            rows.append(row)
    return rows, damaged


def verify(path: Path, remedy: str) -> str | None:
    """What was compared of a file; None where an older version wrote it. ValueError where it is damaged.

    remedy: what becomes of damaged lines.
    """
    _, damaged = parse(path)
    if damaged:
        noun, numbers = "line" if len(damaged) == 1 else "lines", ", ".join(map(str, damaged))
        raise ValueError(f"{path} is damaged in {noun} {numbers}: {remedy}")
    has_checksums = f'"{CRC}": ' in path.read_text(errors="backslashreplace")
    return "the CRC-32 of each row" if has_checksums else None


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
