"""The checkpoints that a command line names: files, or run folders that stand for all that their runs have kept."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..engine import checkpoint, ranks
from . import pretrained
from .pretrained import File


def read(names: Sequence[str], key: str = "teacher", trust: bool = False) -> Iterator[File]:
    """Each checkpoint in turn, a folder's oldest first; a damaged one among several is reported and left out.

    Rank 0 reads them for all: a run that still goes on may replace its newest at any moment.
    FileNotFoundError where a name stands for no checkpoint, ValueError where none can be read.
    """
    error, steps = None, set()
    for path, named in ranks.share(lambda: paths(names)):
        file = ranks.share(partial(_attempt, path, key, trust))
        if isinstance(file, ValueError):
            error = file
            ranks.say(f"left out: {error}")
            continue
        step = path.parent, file.about.get("step")
        if named or step not in steps:  # a run's newest is often also one that it has kept
            yield file
        steps.add(step)
    if error and not steps:
        raise error


def _attempt(path: Path, key: str, trust: bool) -> File | ValueError:
    """An error is passed on to the other ranks, which would wait for the file."""
    try:
        return pretrained.read(path, key, trust)
    except ValueError as error:
        return error


def paths(names: Sequence[str]) -> list[tuple[Path, bool]]:
    """(path, whether it was named itself) of every checkpoint."""
    found = []
    for name in map(Path, names):
        those = (
            [(path, False) for path in _in_folder(name)]
            if name.is_dir()
            else [(name, True)] * name.is_file()
        )
        if not those:
            raise FileNotFoundError(
                f"no checkpoint at {name}: give a checkpoint file or the folder of a run"
            )
        found += those
    return found


def _in_folder(folder: Path) -> list[Path]:
    """Kept ones by the number in their names, then the newest that can be read."""
    special = (checkpoint.NEWEST, checkpoint.PREVIOUS)
    kept = [path for path in folder.glob("[!.]*.pt") if path.name not in special]
    newest = checkpoint.newest(folder, ranks.say)
    return sorted(kept, key=lambda path: (len(path.name), path.name)) + (
        [newest[1]] if newest else []
    )
