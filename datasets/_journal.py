"""Which chunks of images are decoded already, so that a decoding that was interrupted goes on where it was.

A line of JSON beside the file of pixels for each chunk, after a first one that says what the file is to hold. A chunk
counts if its pixels still have the checksum of its line: what a killed process wrote may not have reached the disk.
"""

import json
import math
import threading
import zlib
from pathlib import Path
from typing import Any

from ._convert import Form

JOURNAL = "chunks.jsonl"


class Journal:
    """Of a file of pixels, for `count` images of a form."""

    def __init__(self, pixels: Path, form: Form, count: int):
        self.pixels, self.path = pixels, pixels.with_name(JOURNAL)
        self.row = math.prod(form.shape)  # bytes of an image
        self.about = json.dumps({"form": form, "images": count})
        self._lock = threading.Lock()  # of the threads that add to it

    def done(self) -> dict[int, dict[str, Any]]:
        """What was answered for each chunk that is there, by the row of its first image.

        A chunk with an unreadable image is left out: what is missing to read it may have come since then.
        """
        try:
            about, *lines = self.path.read_text().splitlines()
            if about != self.about:
                return {}
            replies = [reply for line in lines if (reply := _parsed(line)) is not None]
            with open(self.pixels, "rb") as pixels:
                found = {}
                for reply in replies:
                    pixels.seek(reply["start"] * self.row)
                    content = pixels.read(reply["count"] * self.row)
                    if zlib.crc32(content) == reply["checksum"] and not reply["unreadable"]:
                        found[reply["start"]] = reply
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found

    def begin(self) -> None:
        """Start a new one, of which nothing is done."""
        self.path.write_text(f"{self.about}\n")

    def add(self, start: int, reply: dict[str, Any]) -> None:
        """A chunk is written."""
        line = json.dumps({"start": start, **reply})
        with self._lock, open(self.path, "a") as file:
            file.write(f"\n{line}\n")  # after what a killed process may have left of its last line


def _parsed(line: str) -> dict[str, Any] | None:
    """None of a line that is not whole, or empty."""
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None
