"""The files of weights that a run of stage two keeps beside its newest checkpoint."""

from pathlib import Path

from multicrop.engine import ranks
from multicrop.weights.pretrained import Pretrained

BEST, AVERAGED = "best.pt", "averaged.pt"
KEPT = {BEST: "which the validation images selected", AVERAGED: "the averaged weights"}


def say_which(asked: str | Path, file: Pretrained, flag: str = "") -> None:
    """Of a run folder its newest checkpoint is taken: a line on that, and on what else its run has kept.

    flag: what stands before the path of another one on the command line.
    """
    folder = Path(asked).expanduser()
    kept = [name for name in KEPT if (folder / name).is_file()]
    if not kept or file.path is None:
        return
    others = " and ".join(f"{name}, {KEPT[name]}" for name in kept)
    ranks.log(
        f"these are the weights of {file.path}, after epoch {file.metadata.epoch:g}; the run has also kept {others}: "
        f"{flag}{folder / kept[0]} takes it"
    )
