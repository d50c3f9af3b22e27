"""The checkpoints that a command line names: files, or run folders that stand for all that their runs have kept."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..engine import checkpoint, ranks
from . import pretrained, published
from .pretrained import Pretrained


def read(names: Sequence[str], key: str = "teacher", trust: bool = False) -> Iterator[Pretrained]:
    """Each checkpoint in turn, a folder's oldest first; a damaged one among several is reported and left out.

    Rank 0 reads them for all: a run that still goes on may replace its newest at any moment.
    FileNotFoundError where a name stands for no checkpoint, ValueError where none can be read.
    """
    steps: set[tuple[Path, int | None]] = set()
    there = ranks.broadcast_object(lambda: paths(names))
    for path, is_named in there:
        file = ranks.broadcast_object(partial(_attempt, path, key, trust))
        if isinstance(file, ValueError):
            if len(there) == 1:
                raise file
            ranks.log(f"left out: {file}")
            continue
        step = path.parent, file.metadata.step if file.metadata.kind else None
        if is_named or step not in steps:  # a run's newest is often also one that it has kept
            yield file
        steps.add(step)
    if not steps:
        raise ValueError(f"none of these {len(there)} checkpoints can be read")


def _attempt(path: Path, key: str, trust: bool) -> Pretrained | ValueError:
    """An error is passed on to the other ranks, which would wait for the file."""
    try:
        return pretrained.read(path, key, trust)
    except ValueError as error:
        return error


def paths(names: Sequence[str]) -> list[tuple[Path, bool]]:
    """(path, whether it was named itself) of every checkpoint."""
    listed: list[tuple[Path, bool]] = []
    for name in map(Path, names):
        if published.is_name(name):
            listed.append((name, True))
            continue
        if name.is_dir():
            checkpoints = [(path, False) for path in _in_folder(name)]
        else:
            checkpoints = [(name, True)] if name.is_file() else []
        if not checkpoints:
            raise FileNotFoundError(
                f"no checkpoint at {name}: give a checkpoint file or the folder of a run"
            )
        listed += checkpoints
    return listed


def _in_folder(folder: Path) -> list[Path]:
    """Kept ones by the number in their names, then the newest that can be read."""
    special = (checkpoint.NEWEST, checkpoint.PREVIOUS)
    kept = [path for path in folder.glob("[!.]*.pt") if path.name not in special]
    kept.sort(key=lambda path: (len(path.name), path.name))
    newest = checkpoint.newest(folder, ranks.log)
    return [*kept, newest[1]] if newest else kept
