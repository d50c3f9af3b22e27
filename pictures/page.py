"""One self-contained page: sections of words, tables, charts and images. Opens from a disk; it loads nothing.

All text is escaped by the template; charts are data that Vega draws, whose code is in the page.
"""

import importlib.util
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

MISSING = "a report needs {}: pip install 'multicrop[report]', or pip install -r pictures/requirements-report.txt"


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True)
class LeftOut:
    """What could not be made, and why."""

    kind: ClassVar[str] = "left_out"
    what: str
    why: str


@dataclass(frozen=True)
class Table:
    """Rows under heads; numbers stand to the right."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folded: bool = False
    """Only its caption is seen until someone opens it."""

    def is_number(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


@dataclass(frozen=True)
class Chart:
    """A chart in Vega-Lite (pictures/charts.py)."""

    kind: ClassVar[str] = "chart"
    name: str
    """Of its files, beside the page."""
    caption: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image of its own: a PNG file's bytes."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    png: bytes
    width: int
    """At which it is shown, in px of the page."""

    @property
    def uri(self) -> str:
        return data_uri(self.png, "image/png")


@dataclass(frozen=True)
class Tile:
    """A small image with words under it; its title appears where the mouse is."""

    uri: str
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Tiles:
    """Small images side by side, in groups that have a line each."""

    kind: ClassVar[str] = "tiles"
    caption: str
    groups: Sequence[tuple[str, Sequence[Tile]]]
    size: int = 72
    """Width of an image in px of the page."""


Block = Words | LeftOut | Table | Chart | Picture | Tiles


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def check_installed() -> None:
    """ValueError where a library of the page is missing: for callers who would compute first."""
    for module, package in (
        ("jinja2", "jinja2"),
        ("altair", "altair"),
        ("vl_convert", "vl-convert-python"),
    ):
        if importlib.util.find_spec(module) is None:
            raise ValueError(MISSING.format(package))


def render(title: str, subtitle: str, sections: Sequence[Section], reload_seconds: int = 0) -> str:
    """The page's HTML. reload_seconds: it loads itself anew that often, while it is rewritten; 0: never."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["in_script"] = in_script
    template = environment.from_string((Path(__file__).parent / "page.html.j2").read_text())
    has_charts = any(isinstance(block, Chart) for section in sections for block in section.blocks)
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        reload_seconds=reload_seconds,
        vega=_vega() if has_charts else "",
    )


def in_script(value: Any) -> str:
    """JSON that cannot end the script element that holds it, whatever names are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{b64encode(content).decode()}"


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed")
