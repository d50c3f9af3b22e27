"""Files of weights from the web and from Google Drive, and their checksums.

huggingface_hub downloads: it goes on where a download broke (HTTP range, in steps of 10 MB) and tries again by itself,
which torch.hub.download_url_to_file and pooch do not, and timm needs it anyway. gdown knows the pages that Google Drive
puts before large files.
"""

import hashlib
import logging
import os
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import filelock
import torch

from ..engine import ranks
from ..engine.files import atomic_write, first_line, synchronise, write_errors

DRIVE = re.compile(r"https://drive\.google\.com/file/d/([\w-]+)")
RANGE_NOT_SATISFIABLE = 416  # a partial file that is as long as the whole one, or longer
TRY_LATER = (408, 425, 429)  # HTTP: the server is busy, which says nothing about the file
CUT_OFF = re.compile(r"unexpected EOF|truncated|Ran out of input|unexpected end")  # of pickles
CHUNK = 1 << 20  # bytes


def download(url: str, path: Path, sha256: str | None = None, page: str | None = None) -> None:
    """Fetch the file of weights at a url, unless `path` is there, and compare it with its checksums.

    sha256: of what the url gives, where it is known. That of the file is written beside it in the form that
    `sha256sum -c` reads, and compared from then on. A file that somebody put there is taken. Other processes wait. A
    zip archive around the file is taken off. page: that which names the url, for messages. OSError or ValueError, one
    line.
    """
    if not path.is_file():
        lock = filelock.FileLock(f"{path}.lock")
        with write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            if not path.is_file():  # another process may have fetched it meanwhile
                _fetch_whole(url, path, sha256, page)
        finally:
            lock.release()
    _compare(path)


def verify(path: Path) -> str | None:
    """What was compared of a file; None where no checksum lies beside it. ValueError where it is damaged."""
    noted = _checksum_file(path)
    if not noted.is_file():
        return None
    if noted.read_text(errors="replace").split()[:1] != [sha256_of(path)]:
        raise ValueError(f"{path} does not match {noted.name} beside it")
    return f"the SHA-256 in {noted.name}"


def sha256_of(path: Path) -> str:
    """In hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch_whole(url: str, path: Path, sha256: str | None, page: str | None) -> None:
    partial = path.with_name(f"{path.name}.partial")
    ranks.log(f"downloading {url} to {path}")
    by_hand = f"or put the file at {path} yourself"
    where = page or "its page"
    drive = DRIVE.match(url)
    try:
        if drive:
            _from_drive(drive[1], partial)
        else:
            _from_web(url, partial)
    except ImportError:
        raise ValueError(f"{url} is on Google Drive: pip install gdown, {by_hand}") from None
    except Exception as error:  # each library has its own kinds
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if 400 <= status < 500 and status not in TRY_LATER:
            raise OSError(
                f"cannot download {url}: the server says {status}, so the file is not there (any more); look at "
                f"{where}, {by_hand}"
            ) from None
        how = "give the same command again, "
        if partial.exists():
            how += f"which goes on after {partial.stat().st_size} bytes, "
        how += by_hand
        raise OSError(f"cannot download {url}: {first_line(error)}; {how}") from None
    problem = _problem(partial, sha256)
    if problem:
        partial.unlink()  # there is nothing to go on from
        raise ValueError(f"{url} gave {problem}; look at {where}, {by_hand}")
    with write_errors(path):
        _unpack(partial)
        _write_checksum(path, sha256_of(partial))
        os.replace(partial, path)
        synchronise(path.parent)


def _from_web(url: str, partial: Path) -> None:
    """Append to the partial file what it lacks; an empty one does not stay where that fails."""
    try:
        _append(url, partial)
    except BaseException:
        if not partial.stat().st_size:
            partial.unlink()
        raise


def _append(url: str, partial: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    # What each of its tries says is for its own developers
    logging.getLogger(http_get.__module__).setLevel(logging.ERROR)
    with open(partial, "ab") as file:
        try:
            http_get(url, file, resume_size=file.tell())
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != RANGE_NOT_SATISFIABLE:
                raise
            file.truncate(0)
            http_get(url, file)


def _from_drive(name: str, partial: Path) -> None:
    """gdown keeps a file of its own until it has the whole, and goes on from it. ImportError where it is missing."""
    import gdown

    gdown.download(id=name, output=str(partial), resume=True)


def _problem(path: Path, sha256: str | None) -> str | None:
    """What a downloaded file is where it is not the file of weights."""
    with open(path, "rb") as file:
        start = file.read(256).lstrip()
    if start.startswith(b"<"):
        return "a web page (HTML) in place of the file"
    if not start:
        return "an empty file"
    digest = sha256_of(path)
    if sha256 not in (None, digest):
        return f"a file whose sha256 is {digest}, and that of the published one is {sha256}"
    if not start.startswith((b"PK", b"\x80")):  # as zip archives and pickles start
        return f"something that is no file of weights: it begins with {start[:8]!r}"
    if not _is_whole(path, start):
        return f"only the beginning of a file of weights ({path.stat().st_size} bytes)"
    return None


def _is_whole(path: Path, start: bytes) -> bool:
    """Whether a zip archive has its list of contents, which is at its end, and a pickle all that it announces."""
    if start.startswith(b"PK"):
        return zipfile.is_zipfile(path)
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except EOFError:
        return False
    except Exception as error:  # what else there is to say of it says whoever reads it
        return not CUT_OFF.search(str(error))
    return True


def _unpack(path: Path) -> None:
    """Replace an archive that holds one file of weights by that; torch's own files are zip archives, too."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inside = [
            name
            for name in archive.namelist()
            if name.endswith((".pth", ".pt", ".pyth")) and not name.startswith("__MACOSX/")
        ]
        if len(inside) != 1:
            return
        content = archive.read(inside[0])
    with atomic_write(path) as file:
        file.write(content)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_checksum(path: Path, digest: str) -> None:
    _checksum_file(path).write_text(f"{digest}  {path.name}\n")


def _compare(path: Path) -> None:
    """ValueError where a file is not the one whose checksum was written."""
    noted = _checksum_file(path)
    digest = sha256_of(path)
    if not noted.is_file():
        with suppress(OSError):  # a folder that many read and few write
            _write_checksum(path, digest)
    elif noted.read_text().split()[:1] != [digest]:
        raise ValueError(
            f"{path} is not what was downloaded: its sha256 is not the one in {noted.name}; remove both, and it is "
            "downloaded again"
        )
