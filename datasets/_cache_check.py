"""Entries of the image cache, compared with their checksums without being used."""

import contextlib
import json
import os
from pathlib import Path

from ._cache import META, PIXELS, cache_folder, hash_of
from ._checksums import checksums


def entries_of(path: Path) -> list[Path]:
    """The entries of images below a path; those that do not say whose they are, too, since they are damaged."""
    own, found = str(path.resolve()), []
    for meta_file in sorted(cache_folder().glob(f"*/{META}")):
        with contextlib.suppress(FileNotFoundError):
            meta = _undamaged(meta_file)
            of = None if meta is None else str(meta.get("of", [""])[0])
            if of is None or of == own or of.startswith(own + os.sep):
                found.append(meta_file.parent)
    return found


def verify_entry(entry: Path) -> str | None:
    """What was compared of an entry; None where an older version wrote it. ValueError where it is damaged."""
    remedy = "remove the folder, the next command that needs it makes it anew"
    meta = _undamaged(entry / META) if (entry / META).exists() else None
    if meta is None:
        raise ValueError(f"{entry / META} is damaged: {remedy}")
    if "checksums" not in meta:
        return None
    if not (entry / PIXELS).is_file() or meta["checksums"] != checksums(entry / PIXELS):
        raise ValueError(f"{entry / PIXELS} is damaged: {remedy}")
    return "the CRC-32 of its pixels and the hash of what it says of them"


def _undamaged(file: Path) -> dict | None:
    """What an entry says of itself; None where it is not what was written, as far as that can be known."""
    try:
        text = file.read_text()
        meta = json.loads(text)
        is_as_written = text == json.dumps(meta)
        stated_hash = meta.pop("hash", None)
        if stated_hash is None and "checksums" not in meta:
            return meta
        return meta if is_as_written and stated_hash == hash_of(meta) else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        return None
