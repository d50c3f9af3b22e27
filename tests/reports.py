"""Pages of `multicrop report`, for its tests: what a parser finds in one, and what a browser does."""

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
OFFLINE = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")


class Page(HTMLParser):
    """The elements, attributes and text of a page; `text` is without scripts and styles."""

    def __init__(self, content: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open[-1:] == [tag]:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.text += data

    def loads(self) -> list[str]:
        """What the page would fetch from outside itself."""
        values = [value for _, name, value in self.attributes if name in ("src", "href", "data")]
        return [value for value in values if not value.startswith(("data:", "#"))]

    def handlers(self) -> list[str]:
        """Scripts in attributes: a template of ours writes none."""
        return [name for _, name, _ in self.attributes if name.startswith("on")]


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def browse(page: Path, *flags: str, seconds: float = 8) -> tuple[str, list[str]]:
    """What a headless browser without a network prints, and the lines of the page's console."""
    words = [
        CHROMIUM,
        *OFFLINE,
        "--enable-logging=stderr",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    words += [f"--virtual-time-budget={round(1000 * seconds)}", *flags, page.as_uri()]
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": ""}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
